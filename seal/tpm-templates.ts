import { HANDLE_RANGE, TpmError, type Tpm as Tss } from "node-tpm2-tss";
import type { AttestationKeyKind, EkCertificate, EndorsementKeyKind } from "../attest/index.ts";
import { fromHex } from "../policy/index.ts";

/**
 * TPMT_PUBLIC of the attestation key: ECC, nameAlg SHA-256, attributes 0x50472 (fixedTPM, fixedParent,
 * sensitiveDataOrigin, userWithAuth, noDA, restricted, sign), no policy, symmetric NULL, ECDSA with SHA-256, P-256, KDF NULL,
 * both coordinates empty.
 */
export const attestationKeyTemplate = fromHex("0023000b00050472000000100018000b0003001000000000");

/** The attestation keys. The RSA one differs in its scheme, RSASSA with SHA-256, 2048 bits, exponent 0 (65537), and its empty modulus. */
export const attestationKeyTemplates: Readonly<Record<AttestationKeyKind, Uint8Array>> = {
  p256: attestationKeyTemplate,
  rsa2048: fromHex("0001000b00050472000000100014000b0800000000000000"),
};

export interface EkTemplate {
  readonly persistentHandle: number;
  /** nameAlg, which a policy session for this key must have. */
  readonly hash: "sha256" | "sha384";
  /**
   * The policies that PolicyOR joins after PolicySecret(endorsement); empty when PolicySecret is all. The P-384 EK would take
   * the empty password too, but such a use counts for the dictionary-attack lockout when the power is cut after it.
   */
  readonly alternatives: readonly Uint8Array[];
  readonly template: Uint8Array;
}

// TCG EK Credential Profile 2.5, annex B.3.3 (L-1) and B.4.5 (H-3); the policies are PolicyA for SHA-256 and PolicyB for SHA-384.
const policyA = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";
const policyB = "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12";

export const ekTemplates: Readonly<Record<EndorsementKeyKind, EkTemplate>> = {
  rsa2048: {
    persistentHandle: 0x81010001,
    hash: "sha256",
    alternatives: [],
    // RSA, SHA-256, attributes, policy, AES-128-CFB, scheme NULL, 2048 bits, exponent 0, 256 zero bytes of modulus
    template: fromHex(`0001000b000300b20020${policyA}00060080004300100800000000000100${"00".repeat(256)}`),
  },
  p384: {
    persistentHandle: 0x81010016,
    hash: "sha384",
    alternatives: [
      fromHex("8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53"),
      fromHex("d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"),
    ],
    // ECC, SHA-384, attributes, policy, AES-256-CFB, scheme NULL, P-384, KDF NULL, both coordinates empty
    template: fromHex(`0023000c000300f20030${policyB}00060100004300100004001000000000`),
  },
};

/** Indices that hold EK certificates: L-1, L-2, and the H range, whose odd indices hold templates. */
export function isEkCertificateIndex(nvIndex: number): boolean {
  const high = nvIndex >= 0x01c00012 && nvIndex <= 0x01c0007e && nvIndex % 2 === 0;
  return nvIndex === 0x01c00002 || nvIndex === 0x01c0000a || high;
}

/** EK certificates from NV, in order of their index; empty when the TPM has none. Not verified here. */
export async function readEkCertificates(tss: Tss): Promise<readonly EkCertificate[]> {
  const certificates: EkCertificate[] = [];
  for (const nvIndex of (await tss.handles(HANDLE_RANGE.nvIndex)).filter(isEkCertificateIndex)) {
    const der = await readCertificate(tss, nvIndex);
    if (der !== null) certificates.push({ nvIndex, der });
  }
  return certificates;
}

/** TPMA_NV. An owner cannot make an index with PLATFORMCREATE. */
const NV = { noDa: 0x0200_0000, written: 0x2000_0000, platformCreate: 0x4000_0000 } as const;
/** TPM_RC_NV_AUTHORIZATION, TPM_RC_AUTH_UNAVAILABLE, TPM_RC_BAD_AUTH of the first session. */
const NOT_FOR_US: readonly number[] = [0x149, 0x12f, 0x9a2];

/** Null for an index that whoever is the owner may have put there: one wrong password there must neither count nor end the search. */
async function readCertificate(tss: Tss, nvIndex: number): Promise<Uint8Array | null> {
  await using index = await tss.trFromTpmPublic(nvIndex);
  const { attributes } = await tss.nvReadPublic(index);
  if ((attributes & NV.written) === 0 || (attributes & (NV.noDa | NV.platformCreate)) === 0) return null;
  try {
    return derPrefix(await tss.nvRead(index));
  } catch (error) {
    if (error instanceof TpmError && NOT_FOR_US.includes(error.rc)) return null;
    throw error;
  }
}

/** The DER SEQUENCE at the start of an NV index, without padding; null when there is none, as in an index never filled. */
function derPrefix(bytes: Uint8Array): Uint8Array | null {
  const SEQUENCE = 0x30;
  const TWO_LENGTH_BYTES = 0x82; // every certificate is between 256 and 65535 bytes long
  if (bytes.length < 4 || bytes[0] !== SEQUENCE || bytes[1] !== TWO_LENGTH_BYTES) return null;
  const length = 4 + new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint16(2);
  return length <= bytes.length ? bytes.slice(0, length) : null;
}
