import { utf8 } from "./bytes.ts";
import { EPOCH_REF, epochLimit, epochStart, measureEpochName } from "./epoch.ts";
import { measureKeyName } from "./keys.ts";
import { measurePolicy, type PcrValues, type PolicyStep, TPM_CC } from "./tpm-policy.ts";

// The policies that root and release keys approve, each as a value. seal/FORMATS.md, section 3 and 4.

/** PCR that the agent's launch events are extended into. Cannot be reset without a reboot. */
export const AGENT_PCR = 13;
/** PCRs of the SHA-256 bank that a sealed credential depends on, ascending. */
export const SEAL_PCRS: readonly number[] = [4, 9, 11, 12, AGENT_PCR];
/** Of these, the ones that the boot decides: they keep their values after the cap. */
export const BOOT_PCRS: readonly number[] = SEAL_PCRS.filter((index) => index !== AGENT_PCR);
/** Those of them that every boot extends. PCR 12 stays at zero while nothing overrides the command line. */
export const EXTENDED_PCRS: readonly number[] = [4, 9, 11];
/** policyRef of what a release key approves for unsealing. */
export const RELEASE_REF = utf8("ironclaw/release/v2");

/** 1 to 32 of a-z, 0-9 and -. The name is part of the TPM policy under which a credential is sealed. */
export const CREDENTIAL_NAME = /^[a-z0-9-]{1,32}$/;

/** policyRef under which the root approves release keys for one credential: a key may be trusted with some and not with others. */
export function credentialRef(name: string): Uint8Array {
  if (!CREDENTIAL_NAME.test(name)) throw new TypeError(`credential name: ${JSON.stringify(name)}`);
  return utf8(`ironclaw/credential/v2/${name}`);
}

/** authPolicy of an object that holds the credential `name`, 32 bytes. It can never change: everything else hangs below the root key. */
export function measureObjectPolicy(rootKeyPem: string, name: string): Uint8Array {
  return measurePolicy([{ kind: "authorize", keyName: measureKeyName(rootKeyPem), policyRef: credentialRef(name) }]);
}

/** What the root approves for a credential: a release of this key, while the epoch counter has not passed `lastEpoch`. */
export function delegationSteps(rootKeyPem: string, releaseKeyPem: string, lastEpoch: number): readonly PolicyStep[] {
  return [
    { kind: "authorize", keyName: measureKeyName(releaseKeyPem), policyRef: RELEASE_REF },
    { kind: "nv", name: measureEpochName(rootKeyPem), operation: "unsignedLe", operand: epochLimit(lastEpoch) },
  ];
}

/**
 * What a release key approves: the seal PCRs have these values, the counter has not passed the epoch, and the command is
 * TPM2_Unseal. Without PolicyPCR a policy would outlive the cap; without PolicyCommandCode it could duplicate the object in clear.
 */
export function releaseSteps(rootKeyPem: string, pcrs: PcrValues, epoch: number): readonly PolicyStep[] {
  return [
    { kind: "pcr", pcrs },
    { kind: "nv", name: measureEpochName(rootKeyPem), operation: "unsignedLe", operand: epochLimit(epoch) },
    { kind: "commandCode", code: TPM_CC.unseal },
  ];
}

/** What the root approves for every machine: the counter's very first increment, which no PolicyNV can guard. */
export function firstIncrementSteps(): readonly PolicyStep[] {
  return [
    { kind: "nvWritten", written: false },
    { kind: "commandCode", code: TPM_CC.nvIncrement },
  ];
}

/** What the root approves for a release key: raising the counter, no further than to the start of `lastEpoch`. */
export function raiseDelegationSteps(
  rootKeyPem: string,
  releaseKeyPem: string,
  lastEpoch: number,
): readonly PolicyStep[] {
  return [
    { kind: "authorize", keyName: measureKeyName(releaseKeyPem), policyRef: EPOCH_REF },
    { kind: "nv", name: measureEpochName(rootKeyPem), operation: "unsignedLt", operand: epochStart(lastEpoch) },
  ];
}

/** What a release key approves: raising the counter to the start of `epoch`, in a machine that booted this release's image. */
export function raiseSteps(rootKeyPem: string, bootPcrs: PcrValues, epoch: number): readonly PolicyStep[] {
  return [
    { kind: "pcr", pcrs: bootPcrs },
    { kind: "nv", name: measureEpochName(rootKeyPem), operation: "unsignedLt", operand: epochStart(epoch) },
    { kind: "commandCode", code: TPM_CC.nvIncrement },
  ];
}
