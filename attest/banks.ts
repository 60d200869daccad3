import { sha256, sha384 } from "../policy/index.ts";

/** A PCR bank that this project keeps: both are always extended. */
export type PcrBank = "sha256" | "sha384";

export const pcrBanks: readonly PcrBank[] = ["sha256", "sha384"];

const banks = {
  sha256: { algorithm: 0x000b, size: 32, hash: sha256 },
  sha384: { algorithm: 0x000c, size: 48, hash: sha384 },
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

/** TPM2_PCR_Extend: H(old || digest). */
export function extendPcr(bank: PcrBank, old: Uint8Array, digest: Uint8Array): Uint8Array {
  const joined = new Uint8Array(old.length + digest.length);
  joined.set(old);
  joined.set(digest, old.length);
  return hashInBank(bank, joined);
}

/** What a PCR holds after TPM2_Startup: zeros, and ones for the dynamic-launch PCRs 17 to 22 (PC Client PTP). */
export function resetValue(bank: PcrBank, pcr: number): Uint8Array {
  return new Uint8Array(bankSize(bank)).fill(pcr >= 17 && pcr <= 22 ? 0xff : 0);
}
