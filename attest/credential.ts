import { hmac } from "@noble/hashes/hmac.js";
import { sha256, sha384 } from "@noble/hashes/sha2.js";
import { ByteWriter, concatBytes, utf8 } from "../policy/index.ts";
import { type EkProfile, eccCurve, ekProfileOfPublic } from "./ek-profiles.ts";
import { AttestError } from "./errors.ts";
import type { TpmPublic } from "./tpm-structures.ts";

/** A secret that only the TPM with this EK gives back, and only while it holds an object of this Name. */
export interface Credential {
  /** Content of TPM2B_ID_OBJECT, without its size. */
  readonly credentialBlob: Uint8Array;
  /** Content of TPM2B_ENCRYPTED_SECRET, without its size. */
  readonly encryptedSecret: Uint8Array;
}

/** A seed and the form in which only the EK's TPM can have it. */
export interface SharedSeed {
  readonly seed: Uint8Array;
  /** Content of TPM2B_ENCRYPTED_SECRET. */
  readonly encryptedSecret: Uint8Array;
}

/** What the EK's template says about wrapping: its Name algorithm and the size of its AES key. */
export type StorageScheme = Pick<EkProfile, "hash" | "hashSize" | "symmetricBits">;

type Bytes = Uint8Array<ArrayBuffer>;
type EccPublic = Extract<TpmPublic, { kind: "ecc" }>;
type RsaPublic = Extract<TpmPublic, { kind: "rsa" }>;

/**
 * TPM2_MakeCredential without a TPM (TPM 2.0 Part 1, Annexes B.10.4 and C.6.4): the answer of TPM2_ActivateCredential
 * proves that the AK of this Name and this EK are in one TPM.
 * Does not establish anything about the EK: see `verifyEndorsement`.
 *
 * @param secret at most as long as the EK's Name hash
 * @throws AttestError `ERR_CREDENTIAL` for an EK that is not a storage key of one of the known templates
 */
export async function makeCredential(ek: TpmPublic, akName: Uint8Array, secret: Uint8Array): Promise<Credential> {
  const profile = ekProfileOfPublic(ek);
  if (profile === null)
    throw new AttestError("ERR_CREDENTIAL", "ek template", { expected: "L-1, L-2, H-1, H-2 or H-3", got: "another" });
  const shared = ek.kind === "rsa" ? await encryptSeed(ek, profile) : await agreeOnFreshSeed(ek, profile);
  try {
    return {
      credentialBlob: await wrapCredential(profile, shared.seed, akName, secret),
      encryptedSecret: shared.encryptedSecret,
    };
  } finally {
    shared.seed.fill(0);
  }
}

/**
 * The credential blob for a seed that both sides have: AES-CFB under a key for this Name, then HMAC (Part 1, 24.4 and 24.5).
 * Nothing here is random.
 */
export async function wrapCredential(
  scheme: StorageScheme,
  seed: Uint8Array,
  akName: Uint8Array,
  secret: Uint8Array,
): Promise<Uint8Array> {
  if (secret.length > scheme.hashSize)
    throw new TypeError(`credential secret: ${secret.length} bytes, at most ${scheme.hashSize}`);
  const symmetricKey = kdfa(scheme, seed, "STORAGE", akName, scheme.symmetricBits);
  const identity = await encryptCfb(symmetricKey, new ByteWriter().sized16(secret).finish());
  const hmacKey = kdfa(scheme, seed, "INTEGRITY", new Uint8Array(), 8 * scheme.hashSize);
  const outer = hmac(hashOf(scheme), hmacKey, concatBytes(identity, akName));
  return new ByteWriter().sized16(outer).bytes(identity).finish();
}

/** OAEP with the label "IDENTITY" and its terminating zero. */
async function encryptSeed({ modulus }: RsaPublic, { hash, hashSize }: StorageScheme): Promise<SharedSeed> {
  const seed = crypto.getRandomValues(new Uint8Array(hashSize));
  const jwk = { kty: "RSA", n: modulus.toBase64({ alphabet: "base64url", omitPadding: true }), e: "AQAB" };
  const algorithm = { name: "RSA-OAEP", hash: webHash[hash] };
  const key = await usable(() => crypto.subtle.importKey("jwk", jwk, algorithm, false, ["encrypt"]));
  const label: Bytes = Uint8Array.from(utf8("IDENTITY\0"));
  return { seed, encryptedSecret: new Uint8Array(await crypto.subtle.encrypt({ name: "RSA-OAEP", label }, key, seed)) };
}

async function agreeOnFreshSeed(ek: EccPublic, scheme: StorageScheme): Promise<SharedSeed> {
  const curve = curveOf(ek);
  const ephemeral = await crypto.subtle.generateKey({ name: "ECDH", namedCurve: curve.name }, true, ["deriveBits"]);
  return agreeOnSeed(ek, scheme, "IDENTITY", ephemeral);
}

/** What a shared seed is for: a credential, a sealed object to import, the salt of a session. */
export type SeedLabel = "IDENTITY" | "DUPLICATE" | "SECRET";

/**
 * One-pass ECDH between an ephemeral key and the EK, then KDFe. Coordinates are padded to the size of the field. Nothing here is
 * random.
 * @param ephemeral on the EK's curve, its public part extractable
 * @throws AttestError `ERR_CREDENTIAL` for an EK that is no point of its curve
 */
export async function agreeOnSeed(
  ek: EccPublic,
  scheme: StorageScheme,
  label: SeedLabel,
  ephemeral: CryptoKeyPair,
): Promise<SharedSeed> {
  const { name, size } = curveOf(ek);
  const point: Bytes = Uint8Array.from(concatBytes(Uint8Array.of(4), ek.x, ek.y));
  const algorithm = { name: "ECDH", namedCurve: name };
  const peer = await usable(() => crypto.subtle.importKey("raw", point, algorithm, false, []));
  const raw = new Uint8Array(await crypto.subtle.exportKey("raw", ephemeral.publicKey));
  const ephemeralX = raw.slice(1, 1 + size);
  const agreed = await crypto.subtle.deriveBits({ name: "ECDH", public: peer }, ephemeral.privateKey, 8 * size);
  const shared = new Uint8Array(agreed);
  try {
    const encryptedSecret = new ByteWriter()
      .sized16(ephemeralX)
      .sized16(raw.slice(1 + size))
      .finish();
    return { seed: kdfe(scheme, shared, label, ephemeralX, ek.x), encryptedSecret };
  } finally {
    shared.fill(0);
  }
}

const webHash = { sha256: "SHA-256", sha384: "SHA-384" } as const;

function curveOf({ curve }: EccPublic): { readonly name: "P-256" | "P-384"; readonly size: 32 | 48 } {
  if (curve === eccCurve.p256) return { name: "P-256", size: 32 };
  if (curve === eccCurve.p384) return { name: "P-384", size: 48 };
  throw new AttestError("ERR_CREDENTIAL", "ek curve", { expected: "P-256 or P-384", got: `${curve}` });
}

async function usable(act: () => Promise<CryptoKey>): Promise<CryptoKey> {
  try {
    return await act();
  } catch (cause) {
    throw new AttestError("ERR_CREDENTIAL", "ek key", { expected: "a key that can be used", got: "another", cause });
  }
}
type CryptoKey = Awaited<ReturnType<typeof crypto.subtle.importKey>>;
type CryptoKeyPair = { readonly publicKey: CryptoKey; readonly privateKey: CryptoKey };

function hashOf({ hash }: StorageScheme): typeof sha256 | typeof sha384 {
  return hash === "sha256" ? sha256 : sha384;
}

/** SP 800-56A concatenation KDF as the TPM spells it (Part 1, 11.4.10.3); one block suffices for a seed. */
function kdfe(
  scheme: StorageScheme,
  shared: Uint8Array,
  label: string,
  partyU: Uint8Array,
  partyV: Uint8Array,
): Uint8Array {
  const block = new ByteWriter().u32(1).bytes(shared).bytes(utf8(label)).u8(0).bytes(partyU).bytes(partyV);
  return hashOf(scheme)(block.finish());
}

/** SP 800-108 counter-mode KDF with HMAC (Part 1, 11.4.10.2); one block suffices: no key here is longer than the hash. */
function kdfa(scheme: StorageScheme, key: Uint8Array, label: string, contextU: Uint8Array, bits: number): Uint8Array {
  const block = new ByteWriter().u32(1).bytes(utf8(label)).u8(0).bytes(contextU).u32(bits).finish();
  return hmac(hashOf(scheme), key, block).slice(0, bits / 8);
}
/** AES-CFB with a zero IV. WebCrypto has no CFB: each key-stream block is the first block of a CBC encryption. */
async function encryptCfb(keyBytes: Uint8Array, plain: Uint8Array): Promise<Uint8Array> {
  const key = await crypto.subtle.importKey("raw", Uint8Array.from(keyBytes), "AES-CBC", false, ["encrypt"]);
  const cipher = new Uint8Array(plain.length);
  let feedback: Bytes = new Uint8Array(16);
  for (let offset = 0; offset < plain.length; offset += 16) {
    const iv = new Uint8Array(16);
    const stream = new Uint8Array(await crypto.subtle.encrypt({ name: "AES-CBC", iv }, key, feedback));
    plain.slice(offset, offset + 16).forEach((byte, index) => {
      cipher[offset + index] = byte ^ (stream[index] ?? 0);
    });
    feedback = cipher.slice(offset, offset + 16);
  }
  return cipher;
}
