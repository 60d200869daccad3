import { z } from "zod";
import {
  type Anchors,
  ByteReader,
  encodeCanonicalJson,
  equalBytes,
  fromBase64,
  fromHex,
  IronclawError,
  measureObjectPolicy,
  parseCanonicalJson,
  parseEnvelope,
  ROOT_POLICY_REF,
  type SigningKey,
  signEnvelope,
  toBase64,
  toHex,
  verifyEnvelope,
} from "../policy/index.ts";
import { type EkProfile, ekProfileOfName } from "./ek-public.ts";
import { SealError } from "./errors.ts";
import { encodeSealedPublic, type ImportBlob, SEALED_OBJECT_ATTRIBUTES } from "./import-blob.ts";

/** DSSE payload type of a sealed package. */
export const SEALED_TYPE = "application/vnd.ironclaw.sealed+json";

/** A sealed PIN for one TPM. See FORMATS.md, section 6. */
export interface SealedPackage extends ImportBlob {
  readonly version: 1;
  /** What is sealed, e.g. `hsm-pin`. */
  readonly name: string;
  /** Rises with each new seal for the same machine. */
  readonly generation: number;
  /** Serial number of the HSM token that the PIN belongs to. */
  readonly tokenSerial: string;
  /** Name of the parent EK, 34 or 50 bytes. */
  readonly ekName: Uint8Array;
  readonly policyRef: Uint8Array;
}

const sealedSchema = z.strictObject({
  version: z.literal(1),
  name: z.string().regex(/^[a-z0-9-]{1,64}$/, "expected 1 to 64 of a-z, 0-9 and -"),
  generation: z.int().min(1),
  tokenSerial: z.string().regex(/^[ -~]{1,64}$/, "expected 1 to 64 printable ASCII characters"),
  ekName: z.string().regex(/^(?:000b[0-9a-f]{64}|000c[0-9a-f]{96})$/, "expected a SHA-256 or SHA-384 name"),
  policyRef: z.literal(toHex(ROOT_POLICY_REF)),
  objectPublic: z.string().max(512),
  duplicate: z.string().max(512),
  encryptedSeed: z.string().max(512),
});

/** Signs a package as the operator. @throws SealError ERR_SEALED_MALFORMED for values that no reader would take */
export async function signSealedPackage(sealed: SealedPackage, operator: SigningKey): Promise<Uint8Array> {
  return signEnvelope(SEALED_TYPE, encodeSealedPackage(sealed), operator);
}

/** The package's document, the payload of its envelope. */
export function encodeSealedPackage(sealed: SealedPackage): Uint8Array {
  const document = {
    version: sealed.version,
    name: sealed.name,
    generation: sealed.generation,
    tokenSerial: sealed.tokenSerial,
    ekName: toHex(sealed.ekName),
    policyRef: toHex(sealed.policyRef),
    objectPublic: toBase64(sealed.objectPublic),
    duplicate: toBase64(sealed.duplicate),
    encryptedSeed: toBase64(sealed.encryptedSeed),
  };
  return asSealed(() => encodeCanonicalJson(document, sealedSchema, "ERR_ENVELOPE_MALFORMED", "sealed package"));
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
    const { version, name, generation, tokenSerial } = document;
    return {
      version,
      name,
      generation,
      tokenSerial,
      ekName: fromHex(document.ekName, "ekName"),
      policyRef: fromHex(document.policyRef, "policyRef"),
      objectPublic: fromBase64(document.objectPublic, "objectPublic"),
      duplicate: fromBase64(document.duplicate, "duplicate"),
      encryptedSeed: fromBase64(document.encryptedSeed, "encryptedSeed"),
    };
  });
  const profile = ekProfileOfName(sealed.ekName);
  if (profile === null) throw malformed("ekName", "a SHA-256 or SHA-384 name", `${sealed.ekName.length} bytes`);
  checkObjectPublic(sealed.objectPublic, measureObjectPolicy(rootKeyPem));
  checkSizes(sealed, profile);
  return sealed;
}

/**
 * Proves that the operator of `anchors` signed the package and that its object opens only to the release root of `anchors`.
 * Does not establish that it is for this TPM (compare `ekName`), nor that its generation is the newest.
 *
 * @throws SealError ERR_SEALED_MALFORMED; PolicyError ERR_ENVELOPE_MALFORMED, ERR_ENVELOPE_SIGNATURE
 */
export async function verifySealedPackage(bytes: Uint8Array, anchors: Anchors): Promise<SealedPackage> {
  const payload = await verifyEnvelope(parseEnvelope(bytes), SEALED_TYPE, anchors.operator);
  return parseSealedPackage(payload, anchors.releaseRoot);
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
  const duplicate = 2 + profile.hashSize + SENSITIVE_SIZE;
  const seed = profile.kind === "L-1" ? 256 : 2 * (2 + 48);
  if (sealed.duplicate.length !== duplicate)
    throw malformed("duplicate", `${duplicate} bytes`, `${sealed.duplicate.length}`);
  if (sealed.encryptedSeed.length !== seed)
    throw malformed("encryptedSeed", `${seed} bytes`, `${sealed.encryptedSeed.length}`);
}

/** TPM2B_SENSITIVE of 64 bytes of data: size, type, empty authValue, seedValue, data. */
const SENSITIVE_SIZE = 2 + 2 + 2 + (2 + 32) + (2 + 64);

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
