import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";
import { type Reason, reason } from "../attest/index.ts";
import { encodeCanonicalJson, parseCanonicalJson } from "../policy/index.ts";
import { type MachineTpm, readEpoch } from "../seal/index.ts";
import { AgentError } from "./errors.ts";

/**
 * What only moves up in a TPM, as a machine last saw it: the epoch counter, and TPMS_CLOCK_INFO's resetCount, which every boot raises.
 * A copy of it lies on the state volume, where the host can neither read nor change it, only put back what was there.
 */
export interface TpmCounters {
  readonly epoch: bigint;
  readonly resetCount: number;
}

const schema = z.strictObject({
  version: z.literal(1),
  epoch: z.string().regex(/^(?:0|[1-9][0-9]{0,19})$/),
  resetCount: z.int().min(0).max(0xffff_ffff),
});

export async function readTpmCounters(tss: MachineTpm["tss"]): Promise<TpmCounters> {
  const epoch = await readEpoch(tss);
  const { resetCount } = await tss.readClock();
  return { epoch: epoch.kind === "present" ? (epoch.value ?? 0n) : 0n, resetCount };
}

/**
 * What says that the TPM's state is older than the volume: somebody put it back. A TPM that was cleared counts resets from zero as
 * well; it has lost its anchor too, and then nothing is compared.
 */
export function rollbackReasons(mirrored: TpmCounters, present: TpmCounters): readonly Reason[] {
  const reasons: Reason[] = [];
  if (present.epoch < mirrored.epoch)
    reasons.push(reason("tpm-rolled-back", "epoch counter", `${mirrored.epoch} or more`, `${present.epoch}`));
  // A launch is once in a boot, and every boot resets the TPM.
  if (present.resetCount <= mirrored.resetCount)
    reasons.push(reason("tpm-rolled-back", "resetCount", `more than ${mirrored.resetCount}`, `${present.resetCount}`));
  return reasons;
}

/** Canonical JSON `{"version":1,"epoch":decimal,"resetCount":number}`. */
export function encodeCounters({ epoch, resetCount }: TpmCounters): Uint8Array {
  return encodeCanonicalJson({ version: 1, epoch: `${epoch}`, resetCount }, schema, "ERR_POLICY_MALFORMED", "counters");
}

/** @throws AgentError ERR_STATE_VOLUME for bytes that no agent wrote */
export function parseCounters(bytes: Uint8Array): TpmCounters {
  try {
    const { epoch, resetCount } = parseCanonicalJson(bytes, schema, "ERR_POLICY_MALFORMED", "counters");
    return { epoch: BigInt(epoch), resetCount };
  } catch (cause) {
    const fields = {
      expected: "the counters of a machine",
      got: "another document",
      state: "state-damaged",
      cause,
    } as const;
    throw new AgentError("ERR_STATE_VOLUME", "counters", fields);
  }
}

const fileIn = (directory: string) => join(directory, "counters");

/** Null on a volume that has none yet. */
export function readMirror(directory: string): TpmCounters | null {
  let bytes: Uint8Array;
  try {
    bytes = new Uint8Array(readFileSync(fileIn(directory)));
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
    throw error;
  }
  return parseCounters(bytes);
}

/** All of it or what was there, also when the power goes. */
export function writeMirror(directory: string, counters: TpmCounters): void {
  const path = fileIn(directory);
  const partial = `${path}.new`;
  const file = openSync(partial, "w", 0o600);
  try {
    writeSync(file, encodeCounters(counters));
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(partial, path);
  const parent = openSync(dirname(path), "r");
  try {
    fsyncSync(parent);
  } finally {
    closeSync(parent);
  }
}
