import * as z from "zod";
import { encodeCanonicalJson, parseCanonicalJson, toHex } from "../policy/index.ts";
import type { Claims } from "./claims.ts";
import type { AssuranceClass } from "./enrolment.ts";
import { type Reason, reason } from "./reason.ts";
import type { QuoteAttest } from "./tpm-structures.ts";

const u32 = z.uint32();
const decimal = z.string().regex(/^(?:0|[1-9][0-9]{0,19})$/, "expected a number of 64 bits in decimal");

const continuitySchema = z.strictObject({
  version: z.literal(2),
  /** TPMS_CLOCK_INFO: milliseconds, then the two counters of starts. */
  clock: decimal,
  resetCount: u32,
  restartCount: u32,
  /** Which boot it was: EAT bootseed, 32 hexadecimal digits. */
  bootSeed: z.string().regex(/^[0-9a-f]{32}$/),
  /** The TPM's firmware, 16 hexadecimal digits. */
  firmwareVersion: z.string().regex(/^[0-9a-f]{16}$/),
  /** The TPM's epoch counter; `null` where the machine has none. */
  epoch: decimal.nullable(),
  /** Head of the audit log when the machine last served; `null` before it did. */
  audit: z.strictObject({ seq: z.int().nonnegative(), hash: z.string().regex(/^[0-9a-f]{64}$/) }).nullable(),
});

/**
 * What a verifier keeps of a machine's last verified report, so that it sees whether the next one comes after it. Numbers of 64
 * bits are decimal text.
 */
export type Continuity = z.infer<typeof continuitySchema>;

/** Canonical JSON. @throws PolicyError `ERR_POLICY_MALFORMED` */
export function parseContinuity(bytes: Uint8Array): Continuity {
  return parseCanonicalJson(bytes, continuitySchema, "ERR_POLICY_MALFORMED", "continuity");
}

export function encodeContinuity(continuity: Continuity): Uint8Array {
  return encodeCanonicalJson(continuity, continuitySchema, "ERR_POLICY_MALFORMED", "continuity");
}

/**
 * What to keep of a report once it verified. A launch that does not serve has not opened the machine's audit log: its own records of this boot
 * are no continuation, so the head of before stays.
 */
export function continuityOf(
  { quote, claims }: { readonly quote: QuoteAttest; readonly claims: Claims },
  previous: Continuity | null,
): Continuity {
  const { clock, resetCount, restartCount } = quote.clockInfo;
  const { epoch, audit } = claims.asserted;
  const serves = claims.measured.launch === "serving" || claims.measured.launch === "draining";
  return {
    version: 2,
    ...{ clock: `${clock}`, resetCount, restartCount },
    bootSeed: toHex(claims.bootSeed),
    firmwareVersion: quote.firmwareVersion.toString(16).padStart(16, "0"),
    epoch: epoch === null ? null : `${epoch}`,
    audit: serves ? { seq: audit.seq, hash: toHex(audit.hash) } : (previous?.audit ?? null),
  };
}

export interface ContinuityFindings {
  /** What went back: this is not the machine's next report. */
  readonly reasons: readonly Reason[];
  /** What an honest machine does too, and somebody should know why. */
  readonly doubts: readonly Reason[];
}

/**
 * Compare a report with the one before it. Going back in the TPM's counters or clock, in its epoch or in the audit log is refused: TPM
 * state that was put back, a second machine with a copy of it, or a log that was cut. So is another boot under the counters of the last one.
 * Does not see what was put back to the very state of the last report, nor two copies that never report in turn.
 */
export function continuityFindings(before: Continuity, now: Continuity, tpm: ClockTrust): ContinuityFindings {
  const clock = compareClocks(before, now, tpm);
  return {
    reasons: [
      ...clock.reasons,
      ...forkReasons(before, now),
      ...epochReasons(before, now),
      ...auditReasons(before, now),
    ],
    doubts: [...clock.doubts, ...bootDoubts(before, now)],
  };
}

/** How far a TPM's clock can be relied upon. */
export interface ClockTrust {
  /** TPMS_CLOCK_INFO safe. */
  readonly safe: boolean;
  readonly assurance: AssuranceClass;
}

type Clock = Pick<Continuity, "clock" | "resetCount" | "restartCount">;

const bootOf = ({ resetCount, restartCount }: Clock) => `resetCount ${resetCount}, restartCount ${restartCount}`;

/** A TPM saves its clock at least so often, in milliseconds (TPM 2.0 Part 1, "Clock"): about 70 minutes. */
const maxClockLag = 1n << 22n;

/**
 * restartCount starts again at each reset, so the pair is compared; the clock runs through resets and restarts alike. After an unorderly shutdown it
 * starts at its last saved value, and `safe` says so until it has caught up.
 */
function compareClocks(before: Clock, now: Clock, { safe, assurance }: ClockTrust): ContinuityFindings {
  const boots = now.resetCount - before.resetCount || now.restartCount - before.restartCount;
  if (boots < 0) {
    return {
      reasons: [reason("tpm-rolled-back", "quote clockInfo", `${bootOf(before)} or later`, bootOf(now))],
      doubts: [],
    };
  }
  const lag = BigInt(before.clock) - BigInt(now.clock);
  if (lag <= 0n || (boots > 0 && !safe && lag <= maxClockLag)) return { reasons: [], doubts: [] };
  const clocks = ["quote clockInfo.clock", `${before.clock} ms or later`, `${now.clock} ms`] as const;
  // Software TPMs are known to save it at an orderly end only, and to call it safe all the same; whoever runs one can set it anyway.
  if (boots > 0 && assurance === "software-tpm") return { reasons: [], doubts: [reason("clock-lags", ...clocks)] };
  return { reasons: [reason("clock-went-back", ...clocks)], doubts: [] };
}

/**
 * A TPM that has been started as often as at the last report, and a system that was started since: state of before that report's boot was put back and
 * started again. A boot later with the seed of before says nothing: a system that slept is told from one that was started by the TPM's counters alone.
 */
function forkReasons(before: Continuity, now: Continuity): readonly Reason[] {
  if (bootOf(before) !== bootOf(now) || before.bootSeed === now.bootSeed) return [];
  return [reason("boot-forked", `boot at ${bootOf(before)}`, before.bootSeed, now.bootSeed)];
}

function epochReasons(before: Continuity, now: Continuity): readonly Reason[] {
  if (before.epoch === null) return [];
  if (now.epoch !== null && BigInt(now.epoch) >= BigInt(before.epoch)) return [];
  return [reason("epoch-went-back", "epoch counter", `${before.epoch} or higher`, now.epoch ?? "none")];
}

function auditReasons({ audit: before }: Continuity, { audit: now }: Continuity): readonly Reason[] {
  if (before === null) return [];
  if (now === null) return [reason("audit-rolled-back", "audit head", `record ${before.seq} or later`, "none")];
  if (now.seq < before.seq) {
    return [reason("audit-rolled-back", "audit head", `record ${before.seq} or later`, `record ${now.seq}`)];
  }
  if (now.seq > before.seq || now.hash === before.hash) return [];
  return [reason("audit-forked", `audit record ${before.seq}`, before.hash, now.hash)];
}

function bootDoubts(before: Continuity, now: Continuity): readonly Reason[] {
  const doubts: Reason[] = [];
  if (bootOf(before) !== bootOf(now)) doubts.push(reason("rebooted", "quote clockInfo", bootOf(before), bootOf(now)));
  if (before.firmwareVersion !== now.firmwareVersion)
    doubts.push(reason("tpm-firmware", "quote firmwareVersion", before.firmwareVersion, now.firmwareVersion));
  return doubts;
}
