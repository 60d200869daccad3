/** CK_RV values that the broker answers with (PKCS #11 2.40). */
export const CKR = {
  GENERAL_ERROR: 0x5n,
  FUNCTION_FAILED: 0x6n,
  SLOT_ID_INVALID: 0x3n,
  ARGUMENTS_BAD: 0x7n,
  ATTRIBUTE_SENSITIVE: 0x11n,
  ATTRIBUTE_TYPE_INVALID: 0x12n,
  DATA_LEN_RANGE: 0x21n,
  DEVICE_ERROR: 0x30n,
  DEVICE_MEMORY: 0x31n,
  ENCRYPTED_DATA_INVALID: 0x40n,
  ENCRYPTED_DATA_LEN_RANGE: 0x41n,
  FUNCTION_NOT_SUPPORTED: 0x54n,
  KEY_HANDLE_INVALID: 0x60n,
  KEY_FUNCTION_NOT_PERMITTED: 0x68n,
  MECHANISM_INVALID: 0x70n,
  MECHANISM_PARAM_INVALID: 0x71n,
  OBJECT_HANDLE_INVALID: 0x82n,
  OPERATION_ACTIVE: 0x90n,
  OPERATION_NOT_INITIALIZED: 0x91n,
  SESSION_COUNT: 0xb1n,
  SESSION_HANDLE_INVALID: 0xb3n,
  SESSION_PARALLEL_NOT_SUPPORTED: 0xb4n,
  BUFFER_TOO_SMALL: 0x150n,
  CRYPTOKI_NOT_INITIALIZED: 0x190n,
  CRYPTOKI_ALREADY_INITIALIZED: 0x191n,
  FUNCTION_REJECTED: 0x200n,
} as const;

/** A call of the protocol: its number, and the signatures of request and successful reply. */
export interface CallRow {
  readonly id: number;
  readonly name: string;
  readonly request: string;
  readonly response: string;
}

// `name request response`, in the order of the call numbers from 1; `-` is the empty signature. Versions 0, 1 and 2 have the same rows.
const ROWS = `
Initialize ayyay -|Finalize - -|GetInfo - vsusv|GetSlotList yfu au|GetSlotInfo u ssuvv|GetTokenInfo u ssssuuuuuuuuuuuvvs
GetMechanismList ufu au|GetMechanismInfo uu uuu|InitToken uayz -|OpenSession uu u|CloseSession u -|CloseAllSessions u -
GetSessionInfo u uuuu|InitPIN uay -|SetPIN uayay -|GetOperationState ufy ay|SetOperationState uayuu -|Login uuay -|Logout u -
CreateObject uaA u|CopyObject uuaA u|DestroyObject uu -|GetObjectSize uu u|GetAttributeValue uufA aAu|SetAttributeValue uuaA -
FindObjectsInit uaA -|FindObjects ufu au|FindObjectsFinal u -|EncryptInit uMu -|Encrypt uayfy ay|EncryptUpdate uayfy ay
EncryptFinal ufy ay|DecryptInit uMu -|Decrypt uayfy ay|DecryptUpdate uayfy ay|DecryptFinal ufy ay|DigestInit uM -|Digest uayfy ay
DigestUpdate uay -|DigestKey uu -|DigestFinal ufy ay|SignInit uMu -|Sign uayfy ay|SignUpdate uay -|SignFinal ufy ay
SignRecoverInit uMu -|SignRecover uayfy ay|VerifyInit uMu -|Verify uayay -|VerifyUpdate uay -|VerifyFinal uay -
VerifyRecoverInit uMu -|VerifyRecover uayfy ay|DigestEncryptUpdate uayfy ay|DecryptDigestUpdate uayfy ay|SignEncryptUpdate uayfy ay
DecryptVerifyUpdate uayfy ay|GenerateKey uMaA u|GenerateKeyPair uMaAaA uu|WrapKey uMuufy ay|UnwrapKey uMuayaA u|DeriveKey uMuaA u
SeedRandom uay -|GenerateRandom ufy ay|WaitForSlotEvent u u|LoginUser uuayay -|SessionCancel uu -|MessageEncryptInit uMu -
EncryptMessage uayayayfy ay|EncryptMessageBegin uayay -|EncryptMessageNext uayayfyu ay|MessageEncryptFinal u -|MessageDecryptInit uMu -
DecryptMessage uayayayfy ay|DecryptMessageBegin uayay -|DecryptMessageNext uayayfyu ay|MessageDecryptFinal u -|MessageSignInit uMu -
SignMessage uayayfy ay|SignMessageBegin uay -|SignMessageNext uayayyfy ay|MessageSignFinal u -|MessageVerifyInit uMu -
VerifyMessage uayayay -|VerifyMessageBegin uay -|VerifyMessageNext uayayay -|MessageVerifyFinal u -|InitToken2 uays -|DeriveKey2 uMuaA uPu`;

/** Every call of the protocol by its number, served or not. */
export const CALLS: ReadonlyMap<number, CallRow> = new Map(
  ROWS.trim()
    .split(/[|\n]/)
    .map((text, index) => {
      const [name = "", request = "", response = ""] = text.split(" ");
      return [
        index + 1,
        { id: index + 1, name: `C_${name}`, request: request.replace("-", ""), response: response.replace("-", "") },
      ];
    }),
);

/** The row of a call by its PKCS #11 name. */
export function callNamed(name: string): CallRow {
  for (const row of CALLS.values()) if (row.name === name) return row;
  throw new TypeError(`call: ${name} is not in the table`);
}
