import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { type Reason, reason } from "../attest/index.ts";
import { encodeCanonicalJson, parseCanonicalJson } from "../policy/index.ts";
import { type MachineTpm, readEpoch, syncDirectory } from "../seal/index.ts";
import { codeOf } from "./audit/segment.ts";
import { AgentError } from "./errors.ts";

/**
 * What only moves up in a TPM, as a machine last saw it: the epoch counter, and TPMS_CLOCK_INFO's resetCount with restartCount, of which
 * every boot raises one (TPM 2.0 part 1, section 36.3). A copy of it lies on the state volume, where the host can neither read nor change it, only put back what was there.
 */
export interface TpmCounters {
  readonly epoch: bigint;
  readonly resetCount: number;
  /** Begins again at each reset. */
  readonly restartCount: number;
}

const schema = z.strictObject({
  version: z.literal(1),
  epoch: z.string().regex(/^(?:0|[1-9][0-9]{0,19})$/),
  resetCount: z.uint32(),
  restartCount: z.uint32(),
});

export async function readTpmCounters(tss: MachineTpm["tss"]): Promise<TpmCounters> {
  const epoch = await readEpoch(tss);
  const { resetCount, restartCount } = await tss.readClock();
  return { epoch: epoch.kind === "present" ? (epoch.value ?? 0n) : 0n, resetCount, restartCount };
}

/**
 * What says that the TPM's state is older than the volume: somebody put it back. A TPM that was cleared counts resets from zero as
 * well; it has lost its anchor too, and then nothing is compared.
 */
export function rollbackReasons(mirrored: TpmCounters, present: TpmCounters): readonly Reason[] {
  const reasons: Reason[] = [];
  if (present.epoch < mirrored.epoch)
    reasons.push(reason("tpm-rolled-back", "epoch counter", `${mirrored.epoch} or more`, `${present.epoch}`));
  // A launch is once in a boot, and every boot resets or restarts the TPM.
  if (!isLater(present, mirrored))
    reasons.push(reason("tpm-rolled-back", "resetCount", `after ${bootOf(mirrored)}`, bootOf(present)));
  return reasons;
}

function isLater(a: TpmCounters, b: TpmCounters): boolean {
  return a.resetCount > b.resetCount || (a.resetCount === b.resetCount && a.restartCount > b.restartCount);
}

const bootOf = ({ resetCount, restartCount }: TpmCounters) => `${resetCount}.${restartCount}`;

/** Canonical JSON `{"version":1,"epoch":decimal,"resetCount":number,"restartCount":number}`. */
export function encodeCounters({ epoch, ...boot }: TpmCounters): Uint8Array {
  return encodeCanonicalJson({ version: 1, epoch: `${epoch}`, ...boot }, schema, "ERR_POLICY_MALFORMED", "counters");
}

/** @throws AgentError ERR_STATE_VOLUME for bytes that no agent wrote */
export function parseCounters(bytes: Uint8Array): TpmCounters {
  try {
    const { epoch, resetCount, restartCount } = parseCanonicalJson(bytes, schema, "ERR_POLICY_MALFORMED", "counters");
    return { epoch: BigInt(epoch), resetCount, restartCount };
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

/** Null on a volume that has none yet. @throws AgentError ERR_STATE_VOLUME */
export function readMirror(directory: string): TpmCounters | null {
  let bytes: Uint8Array;
  try {
    bytes = new Uint8Array(readFileSync(fileIn(directory)));
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw unusable(error);
  }
  return parseCounters(bytes);
}

/** All of it or what was there, also when the power goes. @throws AgentError ERR_STATE_VOLUME, `state-full` when there is no room */
export function writeMirror(directory: string, counters: TpmCounters): void {
  const path = fileIn(directory);
  const partial = `${path}.new`;
  try {
    writeFileSync(partial, encodeCounters(counters), { mode: 0o600, flush: true });
    renameSync(partial, path);
    syncDirectory(directory);
  } catch (error) {
    throw unusable(error);
  }
}

function unusable(cause: unknown): AgentError {
  const got = codeOf(cause);
  const state = got === "ENOSPC" || got === "EDQUOT" ? "state-full" : "state-damaged";
  const expected = "room for the TPM's counters";
  return new AgentError("ERR_STATE_VOLUME", "counters", { expected, got, state, cause });
}
