import { hmac } from "@noble/hashes/hmac.js";
import { sha256, sha384 } from "@noble/hashes/sha2.js";
import { ByteWriter, concatBytes, utf8 } from "../policy/index.ts";
import { AttestError } from "./errors.ts";
import { type TpmPublic, tpmAlg } from "./tpm-structures.ts";

/** A secret that only the TPM with this EK gives back, and only while it holds an object of this Name. */
export interface Credential {
  /** Content of TPM2B_ID_OBJECT, without its size. */
  readonly credentialBlob: Uint8Array;
  /** Content of TPM2B_ENCRYPTED_SECRET, without its size. */
  readonly encryptedSecret: Uint8Array;
}

type Bytes = Uint8Array<ArrayBuffer>;

/**
 * TPM2_MakeCredential without a TPM (TPM 2.0 Part 1, Annexes B.10.4 and C.6.4): the answer of TPM2_ActivateCredential
 * proves that the AK of this Name and this EK are in one TPM.
 * Does not establish anything about the EK: see `verifyEndorsement`.
 *
 * @param secret at most as long as the EK's Name hash
 * @throws AttestError `ERR_CREDENTIAL` for an EK that is not a storage key of one of the known templates
 */
export async function makeCredential(ek: TpmPublic, akName: Uint8Array, secret: Uint8Array): Promise<Credential> {
  const scheme = storageScheme(ek);
  if (secret.length > scheme.hashLength)
    throw new TypeError(`credential secret: ${secret.length} bytes, at most ${scheme.hashLength}`);
  const { seed, encryptedSecret } =
    ek.kind === "rsa" ? await rsaSeed(ek.modulus, scheme) : await eccSeed(ek.x, ek.y, scheme);
  const symmetricKey = kdfa(scheme, seed, "STORAGE", akName, scheme.keyBits);
  const identity = await encryptCfb(symmetricKey, new ByteWriter().sized16(secret).finish());
  const hmacKey = kdfa(scheme, seed, "INTEGRITY", new Uint8Array(), 8 * scheme.hashLength);
  const outer = hmac(scheme.hash, hmacKey, concatBytes(identity, akName));
  return { credentialBlob: new ByteWriter().sized16(outer).bytes(identity).finish(), encryptedSecret };
}

interface StorageScheme {
  readonly hash: typeof sha256 | typeof sha384;
  readonly hashName: "SHA-256" | "SHA-384";
  readonly hashLength: number;
  readonly keyBits: number;
}

function storageScheme(ek: TpmPublic): StorageScheme {
  const keyBits = ek.symmetric?.algorithm === tpmAlg.aes && ek.symmetric.mode === tpmAlg.cfb ? ek.symmetric.keyBits : 0;
  if (ek.kind === "rsa" && ek.nameAlg === tpmAlg.sha256 && keyBits === 128) {
    return { hash: sha256, hashName: "SHA-256", hashLength: 32, keyBits };
  }
  if (ek.kind === "ecc" && ek.nameAlg === tpmAlg.sha384 && ek.curve === 0x0004 && keyBits === 256) {
    return { hash: sha384, hashName: "SHA-384", hashLength: 48, keyBits };
  }
  throw new AttestError("ERR_CREDENTIAL", "ek template", { expected: "L-1 (RSA 2048) or H-3 (P-384)", got: "another" });
}

interface Seed {
  readonly seed: Uint8Array;
  readonly encryptedSecret: Uint8Array;
}

/** OAEP with the label "IDENTITY" and its terminating zero. */
async function rsaSeed(modulus: Uint8Array, scheme: StorageScheme): Promise<Seed> {
  const seed = crypto.getRandomValues(new Uint8Array(scheme.hashLength));
  const jwk = { kty: "RSA", n: modulus.toBase64({ alphabet: "base64url", omitPadding: true }), e: "AQAB" };
  const algorithm = { name: "RSA-OAEP", hash: scheme.hashName };
  const key = await importEk(() => crypto.subtle.importKey("jwk", jwk, algorithm, false, ["encrypt"]));
  const label: Bytes = Uint8Array.from(utf8("IDENTITY\0"));
  return { seed, encryptedSecret: new Uint8Array(await crypto.subtle.encrypt({ name: "RSA-OAEP", label }, key, seed)) };
}

/** One-pass ECDH with an ephemeral key, then KDFe. Coordinates are padded to the size of the field. */
async function eccSeed(x: Uint8Array, y: Uint8Array, scheme: StorageScheme): Promise<Seed> {
  const algorithm = { name: "ECDH", namedCurve: "P-384" };
  const point: Bytes = Uint8Array.from(concatBytes(Uint8Array.of(4), x, y));
  const ek = await importEk(() => crypto.subtle.importKey("raw", point, algorithm, false, []));
  const ephemeral = await crypto.subtle.generateKey(algorithm, true, ["deriveBits"]);
  const raw = new Uint8Array(await crypto.subtle.exportKey("raw", ephemeral.publicKey));
  const ephemeralX = raw.slice(1, 49);
  const shared = new Uint8Array(
    await crypto.subtle.deriveBits({ name: "ECDH", public: ek }, ephemeral.privateKey, 384),
  );
  const seed = kdfe(scheme, shared, "IDENTITY", ephemeralX, x);
  return { seed, encryptedSecret: new ByteWriter().sized16(ephemeralX).sized16(raw.slice(49)).finish() };
}

async function importEk(act: () => Promise<CryptoKey>): Promise<CryptoKey> {
  try {
    return await act();
  } catch (cause) {
    throw new AttestError("ERR_CREDENTIAL", "ek key", { expected: "a key that can be used", got: "another", cause });
  }
}
type CryptoKey = Awaited<ReturnType<typeof crypto.subtle.importKey>>;

/** SP 800-56A concatenation KDF as the TPM spells it; one block suffices for a seed. */
function kdfe(
  { hash }: StorageScheme,
  shared: Uint8Array,
  label: string,
  partyU: Uint8Array,
  partyV: Uint8Array,
): Uint8Array {
  return hash(new ByteWriter().u32(1).bytes(shared).bytes(utf8(label)).u8(0).bytes(partyU).bytes(partyV).finish());
}

/** SP 800-108 counter-mode KDF with HMAC; one block suffices: no key here is longer than the hash. */
function kdfa({ hash }: StorageScheme, key: Uint8Array, label: string, contextU: Uint8Array, bits: number): Uint8Array {
  const block = new ByteWriter().u32(1).bytes(utf8(label)).u8(0).bytes(contextU).u32(bits).finish();
  return hmac(hash, key, block).slice(0, bits / 8);
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
