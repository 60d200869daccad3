import * as z from "zod";
import type { EkProfile } from "../attest/index.ts";
import {
  type Anchors,
  ByteReader,
  ByteWriter,
  CREDENTIAL_NAME,
  encodeCanonicalJson,
  equalBytes,
  fromBase64,
  fromHex,
  IronclawError,
  measureObjectPolicy,
  parseCanonicalJson,
  parseEnvelope,
  type SigningKey,
  sha256Hex,
  signEnvelope,
  toBase64,
  toHex,
  utcTime,
  utf8,
  verifyEnvelope,
} from "../policy/index.ts";
import { ekProfileOfName } from "./ek-public.ts";
import { SealError } from "./errors.ts";
import { encodeSealedPublic, type ImportBlob, SEALED_OBJECT_ATTRIBUTES } from "./import-blob.ts";
import { isPaddedSize, NONCE_BYTES, TAG_BYTES } from "./padding.ts";

/** DSSE payload type of a sealed package. */
export const SEALED_TYPE = "application/vnd.ironclaw.sealed+json";
/** Size of what the TPM seals: the AES-256 key under which the secret is encrypted. */
export const SEALED_KEY_BYTES = 32;

/**
 * What the secret is for. `pin`: logs in to the token with the serial number. `file`: goes into a file of the shim, e.g. the TLS
 * client key of a network HSM. `volume-key`: opens the state volume.
 */
export const CREDENTIAL_KINDS = ["pin", "file", "volume-key"] as const;
export type CredentialKind = (typeof CREDENTIAL_KINDS)[number];

/** What a package says about its secret. All of it is authenticated data of the encryption: two packages cannot swap their blobs. */
export interface CredentialLabel {
  /** What is sealed, e.g. `hsm-pin`; 1 to 32 of a-z, 0-9 and -. */
  readonly name: string;
  readonly kind: CredentialKind;
  /** Rises with each new seal of this name for the same machine. */
  readonly generation: number;
  /** UTC; null when the secret does not end by itself. */
  readonly notAfter: string | null;
  /** Serial number of the HSM token that the PIN belongs to; null for other kinds. */
  readonly tokenSerial: string | null;
  /** Name of the parent EK, 34 or 50 bytes. */
  readonly ekName: Uint8Array;
}

/** A sealed secret for one TPM. See FORMATS.md, section 6. */
export interface SealedPackage extends CredentialLabel, ImportBlob {
  readonly version: 2;
  /** 12 bytes. */
  readonly nonce: Uint8Array;
  /** AES-256-GCM of the padded secret, the tag of 16 bytes at its end. */
  readonly ciphertext: Uint8Array;
}

const sealedSchema = z
  .strictObject({
    version: z.literal(2),
    name: z.string().regex(CREDENTIAL_NAME, "expected 1 to 32 of a-z, 0-9 and -"),
    kind: z.enum(CREDENTIAL_KINDS),
    generation: z.int().min(1).max(0xffff_ffff),
    notAfter: utcTime.nullable(),
    tokenSerial: z
      .string()
      .regex(/^[ -~]{1,64}$/, "expected 1 to 64 printable ASCII characters")
      .nullable(),
    ekName: z.string().regex(/^(?:000b[0-9a-f]{64}|000c[0-9a-f]{96})$/, "expected a SHA-256 or SHA-384 name"),
    objectPublic: z.string().max(512),
    duplicate: z.string().max(512),
    encryptedSeed: z.string().max(512),
    nonce: z.string().max(32),
    ciphertext: z.string().max(65_536),
  })
  .refine(({ kind, tokenSerial }) => (kind === "pin") === (tokenSerial !== null), {
    path: ["tokenSerial"],
    message: "expected a token's serial number for a pin, and none for anything else",
  });

/** Signs a package as the operator. @throws SealError ERR_SEALED_MALFORMED for values that no reader would take */
export async function signSealedPackage(sealed: SealedPackage, operator: SigningKey): Promise<Uint8Array> {
  return signEnvelope(SEALED_TYPE, encodeSealedPackage(sealed), operator);
}

/** The package's document, the payload of its envelope. */
export function encodeSealedPackage(sealed: SealedPackage): Uint8Array {
  const { version, name, kind, generation, notAfter, tokenSerial } = sealed;
  const document = {
    ...{ version, name, kind, generation, notAfter, tokenSerial },
    ekName: toHex(sealed.ekName),
    objectPublic: toBase64(sealed.objectPublic),
    duplicate: toBase64(sealed.duplicate),
    encryptedSeed: toBase64(sealed.encryptedSeed),
    nonce: toBase64(sealed.nonce),
    ciphertext: toBase64(sealed.ciphertext),
  };
  return asSealed(() => encodeCanonicalJson(document, sealedSchema, "ERR_ENVELOPE_MALFORMED", "sealed package"));
}

/** Additional authenticated data of the encryption. What opens with other data than these was sealed under another label. */
export function encodeCredentialLabel(label: CredentialLabel): Uint8Array {
  return new ByteWriter()
    .bytes(utf8("ironclaw/sealed/v2\0"))
    .sized16(utf8(label.name))
    .sized16(utf8(label.kind))
    .u32(label.generation)
    .sized16(utf8(label.notAfter ?? ""))
    .sized16(utf8(label.tokenSerial ?? ""))
    .sized16(label.ekName)
    .finish();
}

/**
 * Reads a package and refuses every object that could be opened by anything but a release of `rootKeyPem`.
 * Verifies no signature: see `verifySealedPackage`.
 *
 * @throws SealError ERR_SEALED_MALFORMED
 */
export function parseSealedPackage(payload: Uint8Array, rootKeyPem: string): SealedPackage {
  const sealed = asSealed(() => {
    const document = parseCanonicalJson(payload, sealedSchema, "ERR_ENVELOPE_MALFORMED", "sealed package");
    const { version, name, kind, generation, notAfter, tokenSerial } = document;
    return {
      ...{ version, name, kind, generation, notAfter, tokenSerial },
      ekName: fromHex(document.ekName, "ekName"),
      objectPublic: fromBase64(document.objectPublic, "objectPublic"),
      duplicate: fromBase64(document.duplicate, "duplicate"),
      encryptedSeed: fromBase64(document.encryptedSeed, "encryptedSeed"),
      nonce: fromBase64(document.nonce, "nonce"),
      ciphertext: fromBase64(document.ciphertext, "ciphertext"),
    };
  });
  const profile = ekProfileOfName(sealed.ekName);
  if (profile === null) throw malformed("ekName", "a SHA-256 or SHA-384 name", `${sealed.ekName.length} bytes`);
  checkObjectPublic(sealed.objectPublic, measureObjectPolicy(rootKeyPem, sealed.name));
  checkSizes(sealed, profile);
  return sealed;
}

/**
 * Proves that the operator of `anchors` signed the package and that its object opens only to the release root of `anchors`.
 * Does not establish that it is for this TPM (compare `ekName`), that its generation is the newest, nor that its time has not ended.
 *
 * @throws SealError ERR_SEALED_MALFORMED; PolicyError ERR_ENVELOPE_MALFORMED, ERR_ENVELOPE_SIGNATURE
 */
export async function verifySealedPackage(bytes: Uint8Array, anchors: Anchors): Promise<SealedPackage> {
  const payload = await verifyEnvelope(parseEnvelope(bytes), SEALED_TYPE, anchors.operator);
  return parseSealedPackage(payload, anchors.releaseRoot);
}

/**
 * Which credential and generation a package claims to be, without believing anything else of it; null when it does not even say that.
 * For telling damages apart only.
 */
export function peekSealedPackage(bytes: Uint8Array): Pick<SealedPackage, "name" | "generation"> | null {
  try {
    const claimed = claimSchema.safeParse(JSON.parse(new TextDecoder().decode(parseEnvelope(bytes).payload)));
    return claimed.success ? claimed.data : null;
  } catch {
    return null;
  }
}

const claimSchema = z.object({ name: z.string().regex(CREDENTIAL_NAME), generation: z.int().min(1).max(0xffff_ffff) });

/** SHA-256 of a package's document in hexadecimal: what records of it name, whoever wrapped it into an envelope again. */
export function packageDigest(sealed: SealedPackage): string {
  return sha256Hex(encodeSealedPackage(sealed));
}

function checkObjectPublic(objectPublic: Uint8Array, authPolicy: Uint8Array): void {
  const reader = new ByteReader(objectPublic, "objectPublic");
  const [attributes, policy, unique] = asSealed(() => {
    reader.u32("type and nameAlg");
    const fields = [reader.u32("objectAttributes"), reader.sized16("authPolicy", 64)] as const;
    reader.u16("scheme");
    const unique = reader.sized16("unique", 64);
    reader.end();
    return [...fields, unique];
  });
  if (attributes !== SEALED_OBJECT_ATTRIBUTES)
    throw malformed("objectAttributes", hex32(SEALED_OBJECT_ATTRIBUTES), hex32(attributes));
  if (!equalBytes(policy, authPolicy)) throw malformed("authPolicy", toHex(authPolicy), toHex(policy));
  if (unique.length !== 32) throw malformed("unique", "32 bytes", `${unique.length}`);
  // Type, nameAlg and scheme in one comparison: the whole area has one allowed encoding.
  if (!equalBytes(encodeSealedPublic(authPolicy, unique), objectPublic)) {
    throw malformed("objectPublic", "KEYEDHASH, SHA-256, no scheme", "another public area");
  }
}

function checkSizes(sealed: SealedPackage, profile: EkProfile): void {
  const sizes: readonly (readonly [string, Uint8Array, number])[] = [
    ["duplicate", sealed.duplicate, 2 + profile.hashSize + SENSITIVE_SIZE],
    ["encryptedSeed", sealed.encryptedSeed, profile.key.kind === "rsa" ? 256 : 2 * (2 + profile.key.bytes)],
    ["nonce", sealed.nonce, NONCE_BYTES],
  ];
  for (const [field, bytes, expected] of sizes) {
    if (bytes.length !== expected) throw malformed(field, `${expected} bytes`, `${bytes.length}`);
  }
  if (!isPaddedSize(sealed.ciphertext.length - TAG_BYTES)) {
    throw malformed("ciphertext", "a padded secret and its tag", `${sealed.ciphertext.length} bytes`);
  }
}

/** TPM2B_SENSITIVE around the sealed key: size, type, empty authValue, seedValue, data. */
const SENSITIVE_SIZE = 2 + 2 + 2 + (2 + 32) + (2 + SEALED_KEY_BYTES);

function asSealed<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    const fields = {
      cause,
      ...(cause.hint === undefined ? {} : { hint: cause.hint }),
    };
    throw new SealError("ERR_SEALED_MALFORMED", cause.message, fields);
  }
}

function malformed(field: string, expected: string, got: string): SealError {
  return new SealError("ERR_SEALED_MALFORMED", `sealed package ${field}`, {
    expected,
    got,
  });
}

function hex32(value: number): string {
  return `0x${value.toString(16).padStart(8, "0")}`;
}
