import { ByteReader, ByteWriter, concatBytes, equalBytes, fromBase64, toBase64, toHex } from "./bytes.ts";
import { PolicyError } from "./errors.ts";
import { sha256 } from "./hash.ts";
import {
  encodeSpki,
  type ImportedKey,
  P256_PREFIX,
  RSA_PREFIX,
  RSA_SUFFIX,
  signatureSize,
  signatures,
  type VerificationKey,
} from "./verify-signature.ts";

/** A private key that signs; `sign` hashes with SHA-256 and returns r||s (64 bytes) or RSASSA-PKCS1-v1_5 (256 bytes). */
export interface SigningKey {
  readonly spkiPem: string;
  sign(data: Uint8Array): Promise<Uint8Array>;
}

const P256_SIZE = P256_PREFIX.length + 64;
const RSA_SIZE = RSA_PREFIX.length + 256 + RSA_SUFFIX.length;

const TPM_ALG = {
  rsa: 0x0001,
  sha256: 0x000b,
  null: 0x0010,
  rsassa: 0x0014,
  ecdsa: 0x0018,
  ecc: 0x0023,
} as const;
/** userWithAuth | sign: what TPM2_LoadExternal accepts for a key that only verifies. */
const VERIFICATION_KEY_ATTRIBUTES = 0x0004_0040;
const CURVE_P256 = 0x0003;

/**
 * The DER inside a `PUBLIC KEY` PEM block.
 * @throws PolicyError ERR_KEY_MALFORMED unless the text is exactly one block in the usual form (64 characters a line)
 */
export function decodeSpkiPem(pem: string): Uint8Array {
  const match = /^-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/=\n]{1,4096})\n-----END PUBLIC KEY-----\n?$/.exec(pem);
  const der = match?.[1] === undefined ? undefined : base64OrUndefined(match[1].replaceAll("\n", ""));
  if (der === undefined || encodeSpkiPem(der).trimEnd() !== pem.trimEnd()) {
    throw new PolicyError("ERR_KEY_MALFORMED", "public key", {
      expected: "one PUBLIC KEY block in PEM",
      got: "something else",
    });
  }
  return der;
}

/** PEM with 64 characters a line and a line feed at the end. */
export function encodeSpkiPem(der: Uint8Array): string {
  const lines = toBase64(der).match(/.{1,64}/g) ?? [];
  return `-----BEGIN PUBLIC KEY-----\n${lines.join("\n")}\n-----END PUBLIC KEY-----\n`;
}

function base64OrUndefined(text: string): Uint8Array | undefined {
  try {
    return fromBase64(text);
  } catch {
    return undefined;
  }
}

/** @throws PolicyError ERR_KEY_MALFORMED for any other kind of key. Does not check that a P-256 point is on the curve: the import does. */
export function parseVerificationKey(spkiPem: string): VerificationKey {
  const der = decodeSpkiPem(spkiPem);
  if (der.length === P256_SIZE && equalBytes(der.subarray(0, P256_PREFIX.length), P256_PREFIX)) {
    return {
      kind: "p256",
      x: der.slice(P256_PREFIX.length, -32),
      y: der.slice(-32),
    };
  }
  const modulus = der.slice(RSA_PREFIX.length, -RSA_SUFFIX.length);
  const isRsa = der.length === RSA_SIZE && equalBytes(concatBytes(RSA_PREFIX, modulus, RSA_SUFFIX), der);
  if (isRsa && (modulus[0] ?? 0) >= 0x80) return { kind: "rsa2048", modulus };
  throw new PolicyError("ERR_KEY_MALFORMED", "public key", {
    expected: "ECDSA P-256, or RSA-2048 with exponent 65537",
    got: `${der.length} bytes of another key`,
  });
}

/** The SubjectPublicKeyInfo of a key as PEM: what `parseVerificationKey` reads. Does not check that a P-256 point is on the curve. */
export function encodeVerificationKey(key: VerificationKey): string {
  return encodeSpkiPem(encodeSpki(key));
}

/** DSSE key id: 64 hexadecimal digits of SHA-256 over the SubjectPublicKeyInfo DER. */
export function keyIdOf(spkiPem: string): string {
  return toHex(sha256(decodeSpkiPem(spkiPem)));
}

/** TPMT_PUBLIC (no size in front) under which TPM2_LoadExternal takes the key. P-256: 86 bytes, RSA-2048: 278 bytes. */
export function encodeVerificationKeyPublic(spkiPem: string): Uint8Array {
  const key = parseVerificationKey(spkiPem);
  const writer = new ByteWriter()
    .u16(key.kind === "p256" ? TPM_ALG.ecc : TPM_ALG.rsa)
    .u16(TPM_ALG.sha256)
    .u32(VERIFICATION_KEY_ATTRIBUTES)
    .sized16(new Uint8Array())
    .u16(TPM_ALG.null)
    .u16(TPM_ALG.null);
  if (key.kind === "p256") return writer.u16(CURVE_P256).u16(TPM_ALG.null).sized16(key.x).sized16(key.y).finish();
  return writer.u16(2048).u32(0).sized16(key.modulus).finish();
}

/** TPM Name of the key, 34 bytes: 0x000B || SHA-256(TPMT_PUBLIC). */
export function measureKeyName(spkiPem: string): Uint8Array {
  return new ByteWriter()
    .u16(TPM_ALG.sha256)
    .bytes(sha256(encodeVerificationKeyPublic(spkiPem)))
    .finish();
}

/** TPMT_SIGNATURE of a raw signature (r||s or PKCS#1). @throws PolicyError ERR_BYTES_VALUE when its size is not the key's. */
export function encodeTpmtSignature(spkiPem: string, signature: Uint8Array): Uint8Array {
  const { kind } = parseVerificationKey(spkiPem);
  requireSignatureSize(kind, signature);
  const writer = new ByteWriter().u16(kind === "p256" ? TPM_ALG.ecdsa : TPM_ALG.rsassa).u16(TPM_ALG.sha256);
  if (kind === "rsa2048") return writer.sized16(signature).finish();
  return writer.sized16(signature.subarray(0, 32)).sized16(signature.subarray(32)).finish();
}

/** @throws PolicyError ERR_KEY_MALFORMED for another kind of key, or one that the platform refuses, e.g. a point off the curve */
export async function importVerificationKey(spkiPem: string): Promise<ImportedKey> {
  const key = parseVerificationKey(spkiPem);
  const imported = await signatures.importKey(key);
  if (imported !== null) return imported;
  throw new PolicyError("ERR_KEY_MALFORMED", "public key", {
    expected: `a valid ${key.kind} key`,
    got: "one the import refuses",
  });
}

/** `ImportedKey.verify` for one signature. @throws PolicyError ERR_KEY_MALFORMED */
export async function verifySignature(spkiPem: string, data: Uint8Array, signature: Uint8Array): Promise<boolean> {
  return (await importVerificationKey(spkiPem)).verify(data, signature);
}

/** ECDSA-Sig-Value DER of r||s (64 bytes, P-256). */
export function encodeDerSignature(raw: Uint8Array): Uint8Array {
  requireSignatureSize("p256", raw);
  const body = concatBytes(encodeDerInteger(raw.subarray(0, 32)), encodeDerInteger(raw.subarray(32)));
  return new ByteWriter().u8(0x30).u8(body.length).bytes(body).finish();
}

/** r||s (64 bytes) of a DER ECDSA-Sig-Value. @throws PolicyError for anything but the shortest encoding */
export function parseDerSignature(der: Uint8Array): Uint8Array {
  const reader = new ByteReader(der, "ECDSA-Sig-Value");
  const head = reader.bytes(2, "SEQUENCE");
  const raw = concatBytes(readDerInteger(reader, "r"), readDerInteger(reader, "s"));
  reader.end();
  if (head[0] !== 0x30 || !equalBytes(encodeDerSignature(raw), der)) throw notDer("SEQUENCE");
  return raw;
}

function encodeDerInteger(value: Uint8Array): Uint8Array {
  const first = value.findIndex((byte) => byte !== 0);
  const digits = first < 0 ? new Uint8Array(1) : value.subarray(first);
  const padded = (digits[0] ?? 0) >= 0x80 ? concatBytes(new Uint8Array(1), digits) : digits;
  return new ByteWriter().u8(0x02).u8(padded.length).bytes(padded).finish();
}

function readDerInteger(reader: ByteReader, field: string): Uint8Array {
  if (reader.u8(field) !== 0x02) throw notDer(field);
  const length = reader.u8(field);
  const digits = reader.bytes(length, field);
  const value = length === 33 && digits[0] === 0 ? digits.subarray(1) : digits;
  if (length === 0 || value.length > 32) throw notDer(field);
  return concatBytes(new Uint8Array(32 - value.length), value);
}

function notDer(field: string): PolicyError {
  return new PolicyError("ERR_BYTES_VALUE", `ECDSA-Sig-Value ${field}`, {
    expected: "the shortest DER encoding",
    got: "another",
  });
}

function requireSignatureSize(kind: VerificationKey["kind"], signature: Uint8Array): void {
  if (signature.length === signatureSize(kind)) return;
  throw new PolicyError("ERR_BYTES_VALUE", `${kind} signature`, {
    expected: `${signatureSize(kind)} bytes`,
    got: `${signature.length}`,
  });
}
