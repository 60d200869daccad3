import type { Space } from "./files.ts";

/**
 * How much of a log is kept. Not configured: the numbers are the state volume's, whose size is part of the image (64 MiB), and what a
 * machine may forget is nothing that a host or an operator should be able to change beside a release.
 */
export interface AuditLimits {
  /** A segment that has so many bytes is the last one no longer. */
  readonly segmentBytes: number;
  /** So many segments stay in any case. */
  readonly segments: number;
  /** And so long does every segment stay, in milliseconds: a flood of records stops signing sooner than it deletes what it covers. */
  readonly milliseconds: number;
}

const MEBIBYTE = 1 << 20;

export const AUDIT_LIMITS: AuditLimits = {
  segmentBytes: 4 * MEBIBYTE,
  segments: 8,
  milliseconds: 7 * 86_400_000,
};

/** Below this an operator is warned: a filesystem's eighth, 8 MiB at most. */
export function lowWater({ total }: Space): number {
  return Math.min(8 * MEBIBYTE, Math.floor(total / 8));
}

/**
 * What is left for the log's own last records and the next launch's counters: signing stops before it is used. A filesystem's 64th,
 * 512 KiB at most.
 */
export function reserve({ total }: Space): number {
  return Math.min(MEBIBYTE / 2, Math.floor(total / 64));
}
