import { sha256 } from "@noble/hashes/sha2.js";
import { ByteWriter, concatBytes, utf8 } from "./bytes.ts";
import { measureKeyName } from "./keys.ts";

/** PCR that the agent's launch events are extended into. Cannot be reset without a reboot. */
export const AGENT_PCR = 13;
/** PCRs of the SHA-256 bank that the sealed PIN depends on, ascending. */
export const SEAL_PCRS: readonly number[] = [4, 9, 11, 12, AGENT_PCR];
/** policyRef of what a release key signs. */
export const RELEASE_POLICY_REF = utf8("ironclaw/release/v1");
/** policyRef of what the release root signs. */
export const ROOT_POLICY_REF = utf8("ironclaw/root/v1");

/** PCR index -> 32-byte value of the SHA-256 bank. */
export type PcrValues = ReadonlyMap<number, Uint8Array>;

/** One step of a TPM policy session, as a value: its digest is predicted here, the TPM executes it in the unsealer. */
export type PolicyStep =
  | { readonly kind: "pcr"; readonly pcrs: PcrValues }
  | { readonly kind: "commandCode"; readonly code: number }
  | {
      readonly kind: "authorize";
      readonly keyName: Uint8Array;
      readonly policyRef: Uint8Array;
    };

/** TPM_CC_Unseal. */
export const COMMAND_UNSEAL = 0x0000_015e;
const COMMAND_POLICY_AUTHORIZE = 0x0000_016a;
const COMMAND_POLICY_COMMAND_CODE = 0x0000_016c;
const COMMAND_POLICY_PCR = 0x0000_017f;
const ALG_SHA256 = 0x000b;

/**
 * TPML_PCR_SELECTION of one bank (SHA-256 unless told), 3 bitmap bytes.
 * @throws TypeError for an index outside 0 to 23
 */
export function encodePcrSelection(indices: Iterable<number>, bank = ALG_SHA256): Uint8Array {
  const bitmap = new Uint8Array(3);
  for (const index of indices) {
    if (!Number.isInteger(index) || index < 0 || index > 23)
      throw new TypeError(`PCR index: expected 0 to 23, got ${index}`);
    bitmap[index >> 3] = (bitmap[index >> 3] ?? 0) | (1 << (index & 7));
  }
  return new ByteWriter().u32(1).u16(bank).u8(bitmap.length).bytes(bitmap).finish();
}

/** pcrDigest of TPM2_PolicyPCR: SHA-256 over the values in ascending index order. */
export function measurePcrDigest(pcrs: PcrValues): Uint8Array {
  return sha256(concatBytes(...ascending(pcrs).map(([, value]) => value)));
}

/** policyDigest (32 bytes, SHA-256) that a session reaches after `steps`, in order, from zero. */
export function measurePolicy(steps: readonly PolicyStep[]): Uint8Array {
  return steps.reduce(extendPolicy, new Uint8Array(32));
}

function extendPolicy(digest: Uint8Array, step: PolicyStep): Uint8Array {
  switch (step.kind) {
    case "pcr": {
      const selection = encodePcrSelection(step.pcrs.keys());
      return extend(digest, COMMAND_POLICY_PCR, concatBytes(selection, measurePcrDigest(step.pcrs)));
    }
    case "commandCode":
      return extend(digest, COMMAND_POLICY_COMMAND_CODE, new ByteWriter().u32(step.code).finish());
    case "authorize":
      // TPM2_PolicyAuthorize resets the digest first: what was approved is replaced by who approved it.
      return sha256(concatBytes(extend(new Uint8Array(32), COMMAND_POLICY_AUTHORIZE, step.keyName), step.policyRef));
    default:
      return step satisfies never;
  }
}

function extend(digest: Uint8Array, commandCode: number, argument: Uint8Array): Uint8Array {
  return sha256(new ByteWriter().bytes(digest).u32(commandCode).bytes(argument).finish());
}

function ascending(pcrs: PcrValues): readonly (readonly [number, Uint8Array])[] {
  return [...pcrs].sort(([a], [b]) => a - b);
}

/** The steps that a release key approves: the seal PCRs have these values, and the command is TPM2_Unseal. */
export function releasePolicySteps(pcrs: PcrValues): readonly PolicyStep[] {
  return [
    { kind: "pcr", pcrs },
    { kind: "commandCode", code: COMMAND_UNSEAL },
  ];
}

/** The digest that the release root approves for a release key. */
export function measureDelegation(releaseKeyPem: string): Uint8Array {
  return measurePolicy([
    {
      kind: "authorize",
      keyName: measureKeyName(releaseKeyPem),
      policyRef: RELEASE_POLICY_REF,
    },
  ]);
}

/** authPolicy of every object sealed under a release root. */
export function measureObjectPolicy(rootKeyPem: string): Uint8Array {
  return measurePolicy([
    {
      kind: "authorize",
      keyName: measureKeyName(rootKeyPem),
      policyRef: ROOT_POLICY_REF,
    },
  ]);
}

/** The bytes a key signs (with SHA-256) so that TPM2_PolicyAuthorize accepts `approved` under `policyRef`. */
export function encodePolicyApproval(approved: Uint8Array, policyRef: Uint8Array): Uint8Array {
  return concatBytes(approved, policyRef);
}
