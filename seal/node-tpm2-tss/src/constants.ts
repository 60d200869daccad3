/** Numbers of TPM 2.0 Library, Part 2, as far as the commands here need them. */

/** TPM_ALG_ID of every hash algorithm that a PCR bank may have. */
export const HASH = {
  sha1: 0x0004,
  sha256: 0x000b,
  sha384: 0x000c,
  sha512: 0x000d,
  sm3_256: 0x0012,
  sha3_256: 0x0027,
  sha3_384: 0x0028,
  sha3_512: 0x0029,
} as const;
export type HashName = keyof typeof HASH;

/** Bytes of a digest. */
export const HASH_SIZE: { readonly [name in HashName]: number } = {
  sha1: 20,
  sha256: 32,
  sha384: 48,
  sha512: 64,
  sm3_256: 32,
  sha3_256: 32,
  sha3_384: 48,
  sha3_512: 64,
};

/** The name of a TPM_ALG_ID, or null when it is no hash algorithm. */
export function hashName(algorithm: number): HashName | null {
  return (Object.keys(HASH) as HashName[]).find((name) => HASH[name] === algorithm) ?? null;
}

/** ESYS_TR: handles that exist without being opened. PCR n is n. */
export const ESYS_TR = {
  none: 0xfff,
  password: 0x0ff,
  owner: 0x101,
  null: 0x107,
  lockout: 0x10a,
  endorsement: 0x10b,
  platform: 0x10c,
} as const;

export type Hierarchy = "owner" | "endorsement" | "platform" | "null";
/** What has an authValue without being an object: the hierarchies, and the lockout. */
export type PermanentAuthority = Hierarchy | "lockout";

/** TPM_SE. */
export const SESSION_TYPE = { hmac: 0, policy: 1, trial: 3 } as const;

/** TPMA_SESSION. `decrypt` encrypts the first parameter of the command, `encrypt` that of the response. */
export const SESSION_ATTRIBUTE = {
  continueSession: 0x01,
  decrypt: 0x20,
  encrypt: 0x40,
} as const;

/** TPM_CAP. */
export const CAPABILITY = { handles: 1, pcrs: 5, tpmProperties: 6 } as const;

/** First handle of each range that TPM2_GetCapability lists. */
export const HANDLE_RANGE = {
  nvIndex: 0x01000000,
  loadedSession: 0x02000000,
  savedSession: 0x03000000,
  transient: 0x80000000,
  persistent: 0x81000000,
} as const;

/** TPM_PT: the properties that are asked for by name. Vendor strings are four characters each, most significant byte first. */
export const PROPERTY = {
  manufacturer: 0x105,
  vendorString1: 0x106,
  vendorString2: 0x107,
  vendorString3: 0x108,
  vendorString4: 0x109,
  firmwareVersion1: 0x10b,
  firmwareVersion2: 0x10c,
  nvBufferMax: 0x12c,
  permanent: 0x200,
  startupClear: 0x201,
  lockoutCounter: 0x20e,
  maxAuthFail: 0x20f,
  lockoutInterval: 0x210,
  lockoutRecovery: 0x211,
} as const;

/** TPM_EO: how PolicyNV compares the index's data (A) with the operand (B). */
export const OPERATION = {
  eq: 0x0,
  neq: 0x1,
  signedGt: 0x2,
  unsignedGt: 0x3,
  signedLt: 0x4,
  unsignedLt: 0x5,
  signedGe: 0x6,
  unsignedGe: 0x7,
  signedLe: 0x8,
  unsignedLe: 0x9,
  bitset: 0xa,
  bitclear: 0xb,
} as const;

/** TPM_SU. */
export const STARTUP_TYPE = { clear: 0, state: 1 } as const;
