import { equalBytes, sha256, sha256Into, sha384, sha384Into } from "../policy/index.ts";

/** A PCR bank that this project keeps: both are always extended. */
export type PcrBank = "sha256" | "sha384";

export const pcrBanks: readonly PcrBank[] = ["sha256", "sha384"];

const banks = {
  sha256: { algorithm: 0x000b, size: 32, hash: sha256, hashInto: sha256Into, scratch: new Uint8Array(32) },
  sha384: { algorithm: 0x000c, size: 48, hash: sha384, hashInto: sha384Into, scratch: new Uint8Array(48) },
} as const;

/** TPM_ALG_ID of a bank (TCG Algorithm Registry). */
export function bankAlgorithm(bank: PcrBank): number {
  return banks[bank].algorithm;
}

/** The bank a TPM_ALG_ID names, `null` for one that this project does not keep. */
export function bankOfAlgorithm(algorithm: number): PcrBank | null {
  return pcrBanks.find((bank) => banks[bank].algorithm === algorithm) ?? null;
}

/** Digest size in bytes: 32 or 48. */
export function bankSize(bank: PcrBank): number {
  return banks[bank].size;
}

export function hashInBank(bank: PcrBank, bytes: Uint8Array): Uint8Array {
  return banks[bank].hash(bytes);
}

/** Whether `digest` is the bank's hash of `bytes`. A log has thousands of them, so nothing is allocated. */
export function isHashInBank(bank: PcrBank, bytes: Uint8Array, digest: Uint8Array): boolean {
  const { hashInto, scratch } = banks[bank];
  hashInto(bytes, scratch);
  return equalBytes(scratch, digest);
}

/** TPM2_PCR_Extend: H(old || digest). */
export function extendPcr(bank: PcrBank, old: Uint8Array, digest: Uint8Array): Uint8Array {
  const joined = new Uint8Array(old.length + digest.length);
  joined.set(old);
  joined.set(digest, old.length);
  return hashInBank(bank, joined);
}

/** `extendPcr` with one digest after the other. @throws TypeError for a digest of another bank's size */
export function extendPcrWithAll(bank: PcrBank, old: Uint8Array, digests: Iterable<Uint8Array>): Uint8Array {
  const { size, hashInto } = banks[bank];
  const joined = new Uint8Array(2 * size);
  joined.set(old);
  for (const digest of digests) {
    if (digest.length !== size) throw new TypeError(`${bank} digest: ${digest.length} bytes`);
    joined.set(digest, size);
    hashInto(joined, joined);
  }
  return joined.slice(0, size);
}

/** What a PCR holds after TPM2_Startup: zeros, and ones for the dynamic-launch PCRs 17 to 22 (PC Client PTP). */
export function resetValue(bank: PcrBank, pcr: number): Uint8Array {
  return new Uint8Array(bankSize(bank)).fill(pcr >= 17 && pcr <= 22 ? 0xff : 0);
}
