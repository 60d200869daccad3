import type { EndorsementKeyKind } from "../attest/index.ts";
import { fromHex } from "../policy/index.ts";

/**
 * TPMT_PUBLIC of the attestation key: ECC, nameAlg SHA-256, attributes 0x50072 (fixedTPM, fixedParent,
 * sensitiveDataOrigin, userWithAuth, restricted, sign), no policy, symmetric NULL, ECDSA with SHA-256, P-256, KDF NULL,
 * both coordinates empty.
 */
export const attestationKeyTemplate = fromHex("0023000b00050072000000100018000b0003001000000000");

export interface EkTemplate {
  readonly persistentHandle: number;
  /** Without userWithAuth each use needs PolicySecret(endorsement) in a policy session of the EK's nameAlg. */
  readonly needsPolicy: boolean;
  readonly template: Uint8Array;
}

// TCG EK Credential Profile 2.5, annex B.3.3 (L-1) and B.4.5 (H-3); the policies are PolicyA for SHA-256 and PolicyB for SHA-384.
const policyA = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";
const policyB = "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12";

export const ekTemplates: Readonly<Record<EndorsementKeyKind, EkTemplate>> = {
  rsa2048: {
    persistentHandle: 0x81010001,
    needsPolicy: true,
    // RSA, SHA-256, attributes, policy, AES-128-CFB, scheme NULL, 2048 bits, exponent 0, 256 zero bytes of modulus
    template: fromHex(`0001000b000300b20020${policyA}00060080004300100800000000000100${"00".repeat(256)}`),
  },
  p384: {
    persistentHandle: 0x81010016,
    needsPolicy: false,
    // ECC, SHA-384, attributes, policy, AES-256-CFB, scheme NULL, P-384, KDF NULL, both coordinates empty
    template: fromHex(`0023000c000300f20030${policyB}00060100004300100004001000000000`),
  },
};

/** Indices that hold EK certificates: L-1, L-2, and the H range, whose odd indices hold templates. */
export function isEkCertificateIndex(nvIndex: number): boolean {
  const high = nvIndex >= 0x01c00012 && nvIndex <= 0x01c0007e && nvIndex % 2 === 0;
  return nvIndex === 0x01c00002 || nvIndex === 0x01c0000a || high;
}
