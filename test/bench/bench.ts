import { availableParallelism, cpus, release as kernel, loadavg } from "node:os";
import type { Series } from "./series.ts";

/** One line of a result: our way against the peer's, in one run on one machine. */
export interface Row {
  readonly id: string;
  /** What is measured, and against what. */
  readonly what: string;
  readonly ours: number;
  readonly peer: number;
  readonly unit: string;
  /** ours / peer. */
  readonly ratio: number;
  readonly target: number;
  /** Whether the ratio keeps the target: at most for times, at least for rates. */
  readonly ok: boolean;
  /** Of rows that sign: what was found on while ours was measured. */
  readonly on?: readonly string[];
}

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly kernel: string;
  readonly node: string;
  /** Load averages over a minute, before and after: a busy machine makes times long and their ratio still useful. */
  readonly loadBefore: number;
  readonly loadAfter: number;
}

export interface Result {
  readonly machine: Machine;
  readonly rows: readonly Row[];
  readonly series: readonly Series[];
}

/** Rows or series that are measured together, because they share what is expensive to set up. */
export interface Suite {
  readonly ids: readonly string[];
  /** Measures those of `ids` that are wanted. */
  run(wanted: ReadonlySet<string>, options: BenchOptions): Promise<readonly (Row | Series)[]>;
}

export interface BenchOptions {
  /** Measured runs of each way; a suite may scale it. */
  readonly iterations: number;
  /** Rows of what lasts take as long as their target says, and not a part of it. */
  readonly full: boolean;
}

/** Runs that are not counted: caches, page faults, the first import. */
const WARM_UP = 3;

export interface Compared {
  readonly ours: number;
  readonly peer: number;
}

/**
 * Median milliseconds of both ways. Interleaved, each in turn first, so that whatever else the machine does meets both.
 */
export async function compareTimes(
  ways: { readonly ours: () => Promise<void>; readonly peer: () => Promise<void> },
  iterations: number,
  warmUp = WARM_UP,
): Promise<Compared> {
  const times: Record<keyof Compared, number[]> = { ours: [], peer: [] };
  for (let round = 0; round < warmUp + iterations; round++) {
    for (const way of round % 2 === 0 ? (["ours", "peer"] as const) : (["peer", "ours"] as const)) {
      const start = performance.now();
      await ways[way]();
      if (round >= warmUp) times[way].push(performance.now() - start);
    }
  }
  return { ours: median(times.ours), peer: median(times.peer) };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return ((sorted[Math.floor(middle)] ?? Number.NaN) + (sorted[Math.ceil(middle) - 1] ?? Number.NaN)) / 2;
}

/** A row of times: less is better. */
export function timeRow({ id, what, target }: Pick<Row, "id" | "what" | "target">, { ours, peer }: Compared): Row {
  const ratio = ours / peer;
  const measured = { ours: round(ours), peer: round(peer), unit: "ms", ratio: round(ratio) };
  return { id, what, ...measured, target, ok: ratio <= target };
}

/** A row of rates: more is better. */
export function rateRow({ id, what, target }: Pick<Row, "id" | "what" | "target">, { ours, peer }: Compared): Row {
  const ratio = ours / peer;
  const measured = { ours: round(ours), peer: round(peer), unit: "/s", ratio: round(ratio) };
  return { id, what, ...measured, target, ok: ratio >= target };
}

/** The value that 99 of 100 do not exceed. */
export function percentile99(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.ceil(0.99 * sorted.length) - 1] ?? Number.NaN;
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

/** @param onSuite is given what each suite has measured, as soon as it has */
export async function runSuites(
  suites: readonly Suite[],
  wanted: ReadonlySet<string>,
  options: BenchOptions,
  onSuite: (part: Result) => void = () => undefined,
): Promise<Result> {
  const before = load();
  const all: (Row | Series)[] = [];
  for (const suite of suites) {
    if (!suite.ids.some((id) => wanted.has(id))) continue;
    const loadBefore = load();
    const measured = await suite.run(wanted, options);
    onSuite(resultOf(measured, loadBefore));
    all.push(...measured);
  }
  return resultOf(all, before);
}

function resultOf(measured: readonly (Row | Series)[], loadBefore: number): Result {
  const machine: Machine = {
    cpu: cpus()[0]?.model ?? "unknown",
    cores: availableParallelism(),
    kernel: kernel(),
    node: process.version,
    ...{ loadBefore, loadAfter: load() },
  };
  const isSeries = (one: Row | Series): one is Series => "lines" in one;
  return {
    ...{ machine, series: measured.filter(isSeries) },
    rows: measured.filter((one): one is Row => !isSeries(one)),
  };
}

function load(): number {
  return round(loadavg()[0] ?? 0);
}
