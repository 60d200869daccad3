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
