/** The numbers of agent/RPC.md. Both ends read them here; this folder imports nothing else of the project. */

export const MAGIC = "IRPC";
export const VERSION = 1;
/** Bytes of what each side sends first: the magic and a version. */
export const GREETING = 5;
/** Bytes that `length` counts before the payload: id and op, or id and reason. */
export const HEAD = 5;
/** The highest `length`. */
export const MAX_LENGTH = 262_144;
export const MAX_IN_FLIGHT = 256;

export const OPS = { hello: 1, open: 2, close: 3, sign: 4, decrypt: 5, unwrap: 6, ping: 7, cancel: 8 } as const;

/** What a key does. */
export const DOES = { sign: 1, decrypt: 2, unwrap: 3 } as const;
export type Does = keyof typeof DOES;

/** The form of an input: a digest, a message that the agent hashes, or a block of the modulus' length. */
export const FORMS = { digest: 1, message: 2, block: 3 } as const;
export type Form = keyof typeof FORMS;

/** CK_MECHANISM_TYPE of what a policy can name (PKCS #11 2.40). */
export const MECHANISMS = {
  CKM_RSA_PKCS: 0x1,
  CKM_RSA_X_509: 0x3,
  CKM_RSA_PKCS_OAEP: 0x9,
  CKM_RSA_PKCS_PSS: 0xd,
  CKM_SHA256_RSA_PKCS: 0x40,
  CKM_SHA256_RSA_PKCS_PSS: 0x43,
  CKM_ECDSA: 0x1041,
  CKM_ECDSA_SHA256: 0x1044,
} as const;
export type Mechanism = keyof typeof MECHANISMS;

/** Why a request was refused, as far as the caller may know. RPC.md says what each means. */
export const REASONS = {
  "not-allowed": 1,
  "malformed-input": 2,
  expired: 3,
  "outside-validity": 4,
  frozen: 5,
  "approval-needed": 6,
  rate: 7,
  budget: 8,
  busy: 9,
  "bad-ciphertext": 10,
  "token-error": 11,
  audit: 12,
  cancelled: 13,
  unsupported: 14,
} as const;
export type Reason = keyof typeof REASONS;

/** The name that a number has in one of the tables; null for none. */
export function nameOf<Name extends string>(table: Readonly<Record<Name, number>>, value: number): Name | null {
  for (const name in table) if (table[name] === value) return name;
  return null;
}
