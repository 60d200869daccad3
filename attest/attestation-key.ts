import { concatBytes, signatures, type VerificationKey } from "../policy/index.ts";
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

/** An attestation key that the platform has taken. */
export interface ImportedAttestationKey {
  /** Whether the signature is the key's over `message`: ECDSA P-256 or RSASSA 2048, both with SHA-256, and nothing else. */
  verify(signature: TpmSignature, message: Uint8Array): Promise<boolean>;
}

/** `null` for a key that is none. Says nothing about the key: see `attestationKeyReasons`. */
export async function importAttestationKey(ak: TpmPublic): Promise<ImportedAttestationKey | null> {
  const key = verificationKeyOf(ak);
  const imported = key === null ? null : await signatures.importKey(key);
  if (key === null || imported === null) return null;
  return {
    verify: async (signature, message) => {
      const raw = rawSignature(signature);
      return raw !== null && raw.kind === key.kind && imported.verify(message, raw.bytes);
    },
  };
}

/** `ImportedAttestationKey.verify` for one signature; false too for a key that is none. */
export async function verifyAttestationSignature(
  ak: TpmPublic,
  signature: TpmSignature,
  message: Uint8Array,
): Promise<boolean> {
  const imported = await importAttestationKey(ak);
  return (await imported?.verify(signature, message)) ?? false;
}

function verificationKeyOf(ak: TpmPublic): VerificationKey | null {
  if (ak.kind === "rsa") return { kind: "rsa2048", modulus: ak.modulus };
  return ak.curve === nistP256 ? { kind: "p256", x: ak.x, y: ak.y } : null;
}

function rawSignature(
  signature: TpmSignature,
): { readonly kind: VerificationKey["kind"]; readonly bytes: Uint8Array } | null {
  if (signature.hash !== tpmAlg.sha256) return null;
  if (signature.kind === "rsassa") return { kind: "rsa2048", bytes: signature.signature };
  const { r, s } = signature;
  if (r.length > 32 || s.length > 32) return null;
  return { kind: "p256", bytes: concatBytes(padTo(r, 32), padTo(s, 32)) };
}

function padTo(bytes: Uint8Array, length: number): Uint8Array {
  const padded = new Uint8Array(length);
  padded.set(bytes, length - bytes.length);
  return padded;
}

function hex(value: number, digits: number): string {
  return `0x${(value >>> 0).toString(16).padStart(digits, "0")}`;
}
