import { ByteWriter, utf8 } from "../policy/index.ts";
import { KEY_CLASSES, type KeyClass } from "./shim-replies.ts";

/** Ops of SHIM.md. There are no others. */
export const OP = {
  ready: 1,
  probe: 2,
  load: 3,
  login: 4,
  keys: 5,
  sign: 6,
  arm: 7,
  status: 8,
  credential: 9,
  decrypt: 10,
  unwrap: 11,
  uses: 12,
} as const;

const USES = { sign: 1, decrypt: 2, unwrap: 3 } as const;
const ACCEPTS = { "padding-oracle": 0x40, "raw-rsa": 0x80 } as const;

/** CK_RSA_PKCS_PSS_PARAMS: CKM_ of the hash, CKG_ of the mask generation, salt length in bytes. */
export interface PssParameters {
  readonly hash: bigint;
  readonly mgf: bigint;
  readonly saltLength: bigint;
}

/** CK_RSA_PKCS_OAEP_PARAMS: CKM_ of the hash, CKG_ of the mask generation, the label (256 bytes at most, mostly none). */
export interface OaepParameters {
  readonly hash: bigint;
  readonly mgf: bigint;
  readonly label: Uint8Array;
}

export interface SignRequest {
  readonly slotId: bigint;
  /** From the last `keys()`, or from `unwrap()`. */
  readonly handle: bigint;
  /** CKM_... */
  readonly mechanism: bigint;
  /** Required for PSS mechanisms, null for all others. */
  readonly pss: PssParameters | null;
  /** At most 65,536 bytes. */
  readonly data: Uint8Array;
}

export interface DecryptRequest {
  readonly slotId: bigint;
  readonly handle: bigint;
  /** CKM_RSA_PKCS_OAEP, CKM_RSA_PKCS or CKM_RSA_X_509. */
  readonly mechanism: bigint;
  /** Required for CKM_RSA_PKCS_OAEP, null for all others. */
  readonly oaep: OaepParameters | null;
  /** At most 8,192 bytes. */
  readonly ciphertext: Uint8Array;
}

/** The key to make. What it may not be (extractable, for anything else) cannot be said. */
export interface UnwrapRequest {
  readonly slotId: bigint;
  /** The key that unwraps. */
  readonly handle: bigint;
  /** CKM_RSA_PKCS_OAEP, CKM_AES_KEY_WRAP or CKM_AES_KEY_WRAP_PAD. */
  readonly mechanism: bigint;
  readonly oaep: OaepParameters | null;
  readonly objectClass: KeyClass;
  /** CKK_RSA, CKK_EC, CKK_EC_EDWARDS for a private key; CKK_GENERIC_SECRET, CKK_AES for a secret one. */
  readonly keyType: bigint;
  readonly use: "sign" | "decrypt";
  /** A session object ends with the shim. */
  readonly where: "session" | "token";
  /** CKA_ALLOWED_MECHANISMS, at most 8 and in any order; none = not in the template. */
  readonly allowedMechanisms: readonly bigint[];
  /** CKA_LABEL and CKA_ID, at most 256 bytes each and no object's yet; empty = not in the template. */
  readonly label: string;
  readonly id: Uint8Array;
  /** 1 to 16,384 bytes. */
  readonly wrapped: Uint8Array;
}

/** What one key is for: the second gate behind the policy's own. */
export interface KeyUse {
  readonly slotId: bigint;
  /** From the last `keys()`. */
  readonly handle: bigint;
  readonly use: keyof typeof USES;
  /** The words of the policy; none = neither PKCS#1 v1.5 decryption nor raw RSA works with this key. */
  readonly accepts?: readonly (keyof typeof ACCEPTS)[];
}

export function encodePath(path: string): Uint8Array {
  return new ByteWriter().sized16(utf8(path)).finish();
}

export function encodeSlot(slotId: bigint): Uint8Array {
  return new ByteWriter().u64(slotId).finish();
}

export function encodeSign({ slotId, handle, mechanism, pss, data }: SignRequest): Uint8Array {
  const writer = new ByteWriter()
    .u64(slotId)
    .u64(handle)
    .u64(mechanism)
    .u8(pss === null ? 0 : 1);
  if (pss !== null) writer.u64(pss.hash).u64(pss.mgf).u64(pss.saltLength);
  return writer.sized32(data).finish();
}

export function encodeDecrypt({ slotId, handle, mechanism, oaep, ciphertext }: DecryptRequest): Uint8Array {
  const writer = new ByteWriter().u64(slotId).u64(handle);
  return writeCipher(writer, mechanism, oaep).sized16(ciphertext).finish();
}

export function encodeUnwrap(request: UnwrapRequest): Uint8Array {
  const allowed = [...new Set(request.allowedMechanisms)].sort((a, b) => (a < b ? -1 : 1));
  const writer = new ByteWriter().u64(request.slotId).u64(request.handle);
  writeCipher(writer, request.mechanism, request.oaep)
    .u8(KEY_CLASSES[request.objectClass])
    .u64(request.keyType)
    .u8(USES[request.use])
    .u8(request.where === "token" ? 1 : 0)
    .u8(allowed.length);
  for (const mechanism of allowed) writer.u64(mechanism);
  return writer.sized16(utf8(request.label)).sized16(request.id).sized32(request.wrapped).finish();
}

export function encodeUses(uses: readonly KeyUse[]): Uint8Array {
  const writer = new ByteWriter().u16(uses.length);
  for (const { slotId, handle, use, accepts = [] } of uses) {
    const accepted = accepts.reduce((bits, word) => bits | ACCEPTS[word], 0);
    writer
      .u64(slotId)
      .u64(handle)
      .u8(USES[use] | accepted);
  }
  return writer.finish();
}

function writeCipher(writer: ByteWriter, mechanism: bigint, oaep: OaepParameters | null): ByteWriter {
  writer.u64(mechanism).u8(oaep === null ? 0 : 1);
  return oaep === null ? writer : writer.u64(oaep.hash).u64(oaep.mgf).sized16(oaep.label);
}
