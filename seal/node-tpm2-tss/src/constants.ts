/** Numbers of TPM 2.0 Library, Part 2, as far as the commands here need them. */

/** TPM_ALG_ID of the hash algorithms. */
export const HASH = {
  sha1: 0x0004,
  sha256: 0x000b,
  sha384: 0x000c,
  sha512: 0x000d,
} as const;
export type HashName = keyof typeof HASH;

/** Bytes of a digest. */
export const HASH_SIZE: { readonly [name in HashName]: number } = {
  sha1: 20,
  sha256: 32,
  sha384: 48,
  sha512: 64,
};

export const hashName = (algorithm: number): HashName | null =>
  (Object.keys(HASH) as HashName[]).find((name) => HASH[name] === algorithm) ?? null;

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

/** TPM_PT: the properties that are asked for by name. */
export const PROPERTY = {
  manufacturer: 0x105,
  nvBufferMax: 0x12c,
  permanent: 0x200,
  lockoutCounter: 0x20e,
} as const;
