import { ByteWriter, concatBytes } from "./bytes.ts";
import { sha256 } from "./hash.ts";

/** PCR index -> 32-byte value of the SHA-256 bank. */
export type PcrValues = ReadonlyMap<number, Uint8Array>;

/** TPM_EO of TPM2_PolicyNV: how the index's content is compared with the operand, both as big-endian numbers. */
export const NV_OPERATION = { unsignedLt: 0x0005, unsignedGe: 0x0007, unsignedLe: 0x0009 } as const;
export type NvOperation = keyof typeof NV_OPERATION;

/**
 * One step of a TPM policy session, as a value (TPM 2.0 Library, Part 3, "Enhanced Authorization Commands"). Its digest is
 * predicted here; `executePolicy` of `seal` is the twin that a TPM runs.
 */
export type PolicyStep =
  | { readonly kind: "pcr"; readonly pcrs: PcrValues }
  /** The index, by the Name that it has once it is written, compared with an operand of 8 bytes. */
  | { readonly kind: "nv"; readonly name: Uint8Array; readonly operation: NvOperation; readonly operand: bigint }
  | { readonly kind: "nvWritten"; readonly written: boolean }
  | { readonly kind: "commandCode"; readonly code: number }
  | { readonly kind: "authorize"; readonly keyName: Uint8Array; readonly policyRef: Uint8Array }
  /** The authorisation of the object or hierarchy with this Name; a hierarchy's Name is its handle. */
  | { readonly kind: "secret"; readonly name: Uint8Array; readonly policyRef: Uint8Array }
  | { readonly kind: "authValue" }
  /** One of these digests, of which the session has reached one; 2 to 8. */
  | { readonly kind: "or"; readonly branches: readonly Uint8Array[] };

export const TPM_CC = {
  nvIncrement: 0x0000_0134,
  policySecret: 0x0000_0151,
  policyNv: 0x0000_0149,
  unseal: 0x0000_015e,
  policyAuthorize: 0x0000_016a,
  policyAuthValue: 0x0000_016b,
  policyCommandCode: 0x0000_016c,
  policyOr: 0x0000_0171,
  policyPcr: 0x0000_017f,
  policyNvWritten: 0x0000_018f,
} as const;

const ALG_SHA256 = 0x000b;
const ZERO = new Uint8Array(32);

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
  return steps.reduce(extendPolicy, ZERO);
}

function extendPolicy(digest: Uint8Array, step: PolicyStep): Uint8Array {
  switch (step.kind) {
    case "pcr":
      return extend(digest, TPM_CC.policyPcr, encodePcrSelection(step.pcrs.keys()), measurePcrDigest(step.pcrs));
    case "nv":
      return extend(digest, TPM_CC.policyNv, measureNvComparison(step.operation, step.operand), step.name);
    case "nvWritten":
      return extend(digest, TPM_CC.policyNvWritten, Uint8Array.of(step.written ? 1 : 0));
    case "commandCode":
      return extend(digest, TPM_CC.policyCommandCode, new ByteWriter().u32(step.code).finish());
    // PolicyAuthorize and PolicyOR put the digest back to zero: what was approved is replaced by who approved it.
    case "authorize":
      return withRef(extend(ZERO, TPM_CC.policyAuthorize, step.keyName), step.policyRef);
    case "secret":
      return withRef(extend(digest, TPM_CC.policySecret, step.name), step.policyRef);
    case "authValue":
      return extend(digest, TPM_CC.policyAuthValue);
    case "or":
      return extend(ZERO, TPM_CC.policyOr, ...step.branches);
    default:
      return step satisfies never;
  }
}

function extend(digest: Uint8Array, commandCode: number, ...argument: readonly Uint8Array[]): Uint8Array {
  return sha256(concatBytes(digest, new ByteWriter().u32(commandCode).finish(), ...argument));
}

/** The second half of PolicyUpdate (Part 3, 23.2.3): the policyRef is hashed in by itself, also when it is empty. */
function withRef(digest: Uint8Array, policyRef: Uint8Array): Uint8Array {
  return sha256(concatBytes(digest, policyRef));
}

/** operandB of PolicyNV: 8 bytes, big-endian, as a counter holds them. */
export function encodeNvOperand(operand: bigint): Uint8Array {
  return new ByteWriter().u64(operand).finish();
}

function measureNvComparison(operation: NvOperation, operand: bigint): Uint8Array {
  const offset = 0;
  return sha256(new ByteWriter().u64(operand).u16(offset).u16(NV_OPERATION[operation]).finish());
}

function ascending(pcrs: PcrValues): readonly (readonly [number, Uint8Array])[] {
  return [...pcrs].sort(([a], [b]) => a - b);
}

/** The bytes a key signs (with SHA-256) so that TPM2_PolicyAuthorize accepts `approved` under `policyRef`. */
export function encodePolicyApproval(approved: Uint8Array, policyRef: Uint8Array): Uint8Array {
  return concatBytes(approved, policyRef);
}
