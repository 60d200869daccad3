import { HANDLE_RANGE, TpmError, type Tpm as Tss } from "node-tpm2-tss";
import {
  type AttestationKeyKind,
  type EkCertificate,
  ekProfileOfCertificateIndex,
  firstCertificate,
} from "../attest/index.ts";
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

/** Indices that hold EK certificates: those of the known templates, and the rest of the high range, whose odd indices hold templates. */
export function isEkCertificateIndex(nvIndex: number): boolean {
  const high = nvIndex >= 0x01c00012 && nvIndex <= 0x01c0007e && nvIndex % 2 === 0;
  return high || ekProfileOfCertificateIndex(nvIndex) !== null;
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
  const { attributes, dataSize } = await tss.nvReadPublic(index);
  if ((attributes & NV.written) === 0 || (attributes & (NV.noDa | NV.platformCreate)) === 0) return null;
  try {
    return firstCertificate(await tss.nvRead(index, { size: dataSize }));
  } catch (error) {
    if (error instanceof TpmError && NOT_FOR_US.includes(error.rc)) return null;
    throw error;
  }
}
