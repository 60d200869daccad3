import { concatBytes, toBase64Url } from "../policy/index.ts";
import { type Reason, reason } from "./reason.ts";
import { objectAttribute, type TpmPublic, type TpmSignature, tpmAlg } from "./tpm-structures.ts";

const nistP256 = 0x0003;
const { fixedTpm, fixedParent, sensitiveDataOrigin, restricted, sign, decrypt } = objectAttribute;
const required = fixedTpm | fixedParent | sensitiveDataOrigin | restricted | sign;

/**
 * Why a public area is not one of an attestation key; empty when it is. Restricted matters most: an unrestricted key
 * signs whatever its holder likes, a TPMS_ATTEST of his own making too.
 * Does not establish that the key is in a TPM: TPM2_ActivateCredential at the enrolment does.
 */
export function attestationKeyReasons(ak: TpmPublic): readonly Reason[] {
  const reasons: Reason[] = [];
  const expect = (item: string, expected: string, got: string) => {
    if (expected !== got) reasons.push(reason("ak-unsuitable", item, expected, got));
  };
  expect("ak objectAttributes", hex(ak.attributes | required, 8), hex(ak.attributes, 8));
  expect("ak decrypt", "not set", (ak.attributes & decrypt) === 0 ? "not set" : "set");
  expect("ak nameAlg", hex(tpmAlg.sha256, 4), hex(ak.nameAlg, 4));
  expect("ak symmetric", "none", ak.symmetric === null ? "none" : "present");
  expect("ak scheme hash", hex(tpmAlg.sha256, 4), hex(ak.scheme?.hash ?? 0, 4));
  expect("ak scheme", hex(ak.kind === "ecc" ? tpmAlg.ecdsa : tpmAlg.rsassa, 4), hex(ak.scheme?.scheme ?? 0, 4));
  if (ak.kind === "ecc") {
    expect("ak curve", hex(nistP256, 4), hex(ak.curve, 4));
    expect("ak point", "32 and 32 bytes", `${ak.x.length} and ${ak.y.length} bytes`);
  } else {
    expect("ak keyBits", "2048", `${ak.keyBits}`);
    expect("ak modulus", "256 bytes", `${ak.modulus.length} bytes`);
    expect("ak exponent", "65537", `${ak.exponent === 0 ? 65537 : ak.exponent}`);
  }
  return reasons;
}

/** fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign. */
const templateAttributes = 0x00050472;

/**
 * Why a public area is not one of the two attestation keys that the agent makes; empty when it is. For enrolment: other attributes or a policy
 * would be further keys of the same TPM. Does not establish that a TPM has no further key of this very template: another `unique` makes one.
 */
export function attestationTemplateReasons(ak: TpmPublic): readonly Reason[] {
  const reasons = [...attestationKeyReasons(ak)];
  const expect = (item: string, expected: string, got: string) => {
    if (expected !== got) reasons.push(reason("ak-unsuitable", item, expected, got));
  };
  expect("ak objectAttributes", hex(templateAttributes, 8), hex(ak.attributes, 8));
  expect("ak authPolicy", "0 bytes", `${ak.authPolicy.length} bytes`);
  return reasons;
}

/** A check that the platform is at. It never rejects. */
export interface SignatureCheck {
  readonly verified: Promise<boolean>;
}

const notVerified: SignatureCheck = { verified: Promise.resolve(false) };

/**
 * Begins to check whether the signature is the key's over `message`: ECDSA P-256 or RSASSA 2048, both with SHA-256, and nothing else.
 * The key is imported when this resolves; the check itself goes on beside the caller, who has logs to read meanwhile.
 * Says nothing about the key: see `attestationKeyReasons`.
 */
export async function startAttestationSignature(
  ak: TpmPublic,
  signature: TpmSignature,
  message: Uint8Array,
): Promise<SignatureCheck> {
  if (signature.hash !== tpmAlg.sha256) return notVerified;
  if (ak.kind === "ecc" && signature.kind === "ecdsa" && ak.curve === nistP256) {
    return startEcdsa(ak.x, ak.y, signature.r, signature.s, message);
  }
  if (ak.kind === "rsa" && signature.kind === "rsassa" && ak.modulus.length === 256) {
    return startRsa(ak.modulus, signature.signature, message);
  }
  return notVerified;
}

async function startEcdsa(
  x: Uint8Array,
  y: Uint8Array,
  r: Uint8Array,
  s: Uint8Array,
  message: Uint8Array,
): Promise<SignatureCheck> {
  if (r.length > 32 || s.length > 32) return notVerified;
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const point = concatBytes(Uint8Array.of(4), x, y);
  const imported = () => crypto.subtle.importKey("raw", Uint8Array.from(point), algorithm, false, ["verify"]);
  return startWith(algorithm, imported, concatBytes(padTo(r, 32), padTo(s, 32)), message);
}

async function startRsa(modulus: Uint8Array, signature: Uint8Array, message: Uint8Array): Promise<SignatureCheck> {
  const algorithm = { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" };
  const jwk = { kty: "RSA", n: toBase64Url(modulus), e: "AQAB" };
  const imported = () => crypto.subtle.importKey("jwk", jwk, algorithm, false, ["verify"]);
  return startWith(algorithm, imported, signature, message);
}

type CryptoKey = Awaited<ReturnType<typeof crypto.subtle.importKey>>;

async function startWith(
  algorithm: Parameters<typeof crypto.subtle.verify>[0],
  importKey: () => Promise<CryptoKey>,
  signature: Uint8Array,
  message: Uint8Array,
): Promise<SignatureCheck> {
  try {
    const key = await importKey();
    const verified = crypto.subtle.verify(algorithm, key, Uint8Array.from(signature), Uint8Array.from(message));
    return { verified: verified.catch(() => false) };
  } catch {
    // A point off the curve, a modulus that is none: no such key, hence no signature by it.
    return notVerified;
  }
}

function padTo(bytes: Uint8Array, length: number): Uint8Array {
  const padded = new Uint8Array(length);
  padded.set(bytes, length - bytes.length);
  return padded;
}

function hex(value: number, digits: number): string {
  return `0x${(value >>> 0).toString(16).padStart(digits, "0")}`;
}
