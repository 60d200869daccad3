import { constants, createCipheriv, createECDH, createHash, createHmac, publicEncrypt, randomBytes } from "node:crypto";
import type { EkProfile } from "../attest/index.ts";
import { ByteWriter, concatBytes, utf8 } from "../policy/index.ts";
import type { EkPublic } from "./ek-public.ts";

/** What TPM2_Import takes: an object sealed under an EK by somebody who knows only its public area. */
export interface ImportBlob {
  /** TPMT_PUBLIC, no size in front. */
  readonly objectPublic: Uint8Array;
  /** Content of the TPM2B_PRIVATE. */
  readonly duplicate: Uint8Array;
  /** Content of the TPM2B_ENCRYPTED_SECRET. */
  readonly encryptedSeed: Uint8Array;
}

interface WrappingSeed {
  readonly seed: Uint8Array;
  readonly encryptedSeed: Uint8Array;
}

/** noDA | adminWithPolicy and nothing else: policy only, no password, importable. */
export const SEALED_OBJECT_ATTRIBUTES = 0x0000_0480;
const ALG_KEYEDHASH = 0x0008;
const ALG_SHA256 = 0x000b;
const ALG_NULL = 0x0010;
const EMPTY = new Uint8Array();

/** TPMT_PUBLIC of a sealed data object, 78 bytes. `unique` = SHA-256(seedValue || data). */
export function encodeSealedPublic(
  authPolicy: Uint8Array,
  unique: Uint8Array,
  attributes = SEALED_OBJECT_ATTRIBUTES,
): Uint8Array {
  const head = new ByteWriter().u16(ALG_KEYEDHASH).u16(ALG_SHA256).u32(attributes).sized16(authPolicy);
  return head.u16(ALG_NULL).sized16(unique).finish();
}

/**
 * Wraps `data` as a sealed object for TPM2_Import under `ek` (TPM 2.0 Library Part 1, "Duplication", outer wrapper only).
 * The caller wipes `data`; every intermediate secret is wiped here.
 */
export function encodeImportBlob(
  ek: EkPublic,
  authPolicy: Uint8Array,
  data: Uint8Array,
  attributes?: number,
): ImportBlob {
  const seedValue = randomBytes(32);
  const unique = createHash("sha256").update(seedValue).update(data).digest();
  const objectPublic = encodeSealedPublic(authPolicy, unique, attributes);
  const body = new ByteWriter().u16(ALG_KEYEDHASH).sized16(EMPTY).sized16(seedValue).sized16(data).finish();
  const sensitive = new ByteWriter().sized16(body).finish();
  const { seed, encryptedSeed } = ek.profile.key.kind === "rsa" ? rsaSeed(ek) : ecdhSeed(ek);
  try {
    const name = concatBytes(
      new ByteWriter().u16(ALG_SHA256).finish(),
      createHash("sha256").update(objectPublic).digest(),
    );
    return {
      objectPublic,
      duplicate: outerWrap(ek.profile, seed, name, sensitive),
      encryptedSeed,
    };
  } finally {
    for (const secret of [seedValue, body, sensitive, seed]) secret.fill(0);
  }
}

function outerWrap(profile: EkProfile, seed: Uint8Array, name: Uint8Array, sensitive: Uint8Array): Uint8Array {
  const key = kdfa(profile, seed, "STORAGE", name, profile.symmetricBits);
  const macKey = kdfa(profile, seed, "INTEGRITY", EMPTY, 8 * profile.hashSize);
  try {
    const cipher = createCipheriv(
      profile.symmetricBits === 128 ? "aes-128-cfb" : "aes-256-cfb",
      key,
      new Uint8Array(16),
    );
    const encrypted = concatBytes(cipher.update(sensitive), cipher.final());
    const mac = createHmac(profile.hash, macKey).update(encrypted).update(name).digest();
    return new ByteWriter().sized16(mac).bytes(encrypted).finish();
  } finally {
    key.fill(0);
    macKey.fill(0);
  }
}

function rsaSeed(ek: EkPublic): WrappingSeed {
  const seed = randomBytes(ek.profile.hashSize);
  // The TPM takes the label with its terminating NUL.
  const oaepLabel = utf8("DUPLICATE\0");
  const padding = constants.RSA_PKCS1_OAEP_PADDING;
  return {
    seed,
    encryptedSeed: publicEncrypt({ key: ek.key, padding, oaepHash: ek.profile.hash, oaepLabel }, seed),
  };
}

function ecdhSeed(ek: EkPublic): WrappingSeed {
  const { x, y } = ek.key.export({ format: "jwk" });
  const ekX = Buffer.from(x ?? "", "base64url");
  const ephemeral = createECDH("secp384r1");
  const point = ephemeral.generateKeys(null, "uncompressed");
  const shared = ephemeral.computeSecret(concatBytes(Uint8Array.of(4), ekX, Buffer.from(y ?? "", "base64url")));
  try {
    const [qx, qy] = [point.subarray(1, 49), point.subarray(49)];
    return {
      seed: kdfe(ek.profile, shared, qx, ekX),
      encryptedSeed: new ByteWriter().sized16(qx).sized16(qy).finish(),
    };
  } finally {
    shared.fill(0);
  }
}

/** KDFa (Part 1, 11.4.10.2) for at most one digest of output, which is all the EK profiles need. */
function kdfa(profile: EkProfile, key: Uint8Array, label: string, context: Uint8Array, bits: number): Uint8Array {
  const message = new ByteWriter()
    .u32(1)
    .bytes(utf8(`${label}\0`))
    .bytes(context)
    .u32(bits)
    .finish();
  const digest = createHmac(profile.hash, key).update(message).digest();
  const output = Uint8Array.from(digest.subarray(0, bits / 8));
  digest.fill(0);
  return output;
}

/** KDFe (Part 1, 11.4.10.3) for one digest of output. */
function kdfe(profile: EkProfile, shared: Uint8Array, partyU: Uint8Array, partyV: Uint8Array): Uint8Array {
  const counter = new ByteWriter().u32(1).finish();
  return createHash(profile.hash)
    .update(counter)
    .update(shared)
    .update(utf8("DUPLICATE\0"))
    .update(partyU)
    .update(partyV)
    .digest();
}
