import { ByteWriter, utf8 } from "./bytes.ts";
import { sha256 } from "./hash.ts";
import { measureKeyName } from "./keys.ts";
import { measurePolicy } from "./tpm-policy.ts";

/**
 * The epoch counter: an NV counter of the TPM that only moves up, whatever is deleted, made again or cleared. A release names the
 * highest value under which it still unseals, so that a later release can put an end to it. See seal/FORMATS.md, section 4.
 */
export const EPOCH_INDEX = 0x0180_0020;
/** policyRef of what the release root approves about the counter, and of what a release key approves. */
export const EPOCH_ROOT_REF = utf8("ironclaw/epoch-root/v2");
export const EPOCH_REF = utf8("ironclaw/epoch/v2");
/** Values that one epoch spans. TPM2_Clear moves the counter up by one: without room it would revoke the present release. */
export const EPOCH_STRIDE = 16;
/** Largest epoch number: its counter values stay exact in JavaScript and far from the counter's end. */
export const MAX_EPOCH = 2 ** 32 - 1;

const ALG_SHA256 = 0x000b;
const SIZE = 8;
/** TPM_NT_COUNTER, POLICYWRITE, AUTHREAD, NO_DA: no password and no owner can increment it, and a TPM in lockout reads it. */
export const EPOCH_ATTRIBUTES = 0x0204_0018;
/** TPMA_NV_WRITTEN: set by the TPM with the first write or increment, and part of the Name. */
export const NV_WRITTEN = 0x2000_0000;

/** The highest counter value under which releases of this epoch unseal. */
export function epochLimit(epoch: number): bigint {
  return epochStart(epoch) + BigInt(EPOCH_STRIDE - 1);
}

/** The value to which a release of this epoch raises the counter, if it says so: every lower epoch is revoked then. */
export function epochStart(epoch: number): bigint {
  return BigInt(EPOCH_STRIDE) * BigInt(epoch);
}

/** authPolicy of the counter under a release root, 32 bytes. */
export function measureEpochPolicy(rootKeyPem: string): Uint8Array {
  return measurePolicy([{ kind: "authorize", keyName: measureKeyName(rootKeyPem), policyRef: EPOCH_ROOT_REF }]);
}

/**
 * Name of the counter, 34 bytes. The same on every TPM: it depends on the release root alone. Policies name the written one;
 * before its first increment the counter has the other.
 */
export function measureEpochName(rootKeyPem: string, { written = true } = {}): Uint8Array {
  const area = new ByteWriter()
    .u32(EPOCH_INDEX)
    .u16(ALG_SHA256)
    .u32(written ? EPOCH_ATTRIBUTES | NV_WRITTEN : EPOCH_ATTRIBUTES)
    .sized16(measureEpochPolicy(rootKeyPem))
    .u16(SIZE)
    .finish();
  return new ByteWriter().u16(ALG_SHA256).bytes(sha256(area)).finish();
}
