import type { Attempt } from "../native/index.ts";
import type { Shim } from "../shim-client.ts";

/** Attempts by system-call number. */
export type AttemptCounts = Readonly<Record<number, number>>;

/** What a shim had tried by itself, in its escape probe, before anything of a library ran in it. */
export interface ProbedAttempts {
  readonly total: number;
  readonly counts: AttemptCounts;
}

/** What the library in a shim has tried, also when the shim has ended. */
export function libraryAttempts(shim: Pick<Shim, "attempts">, probed: ProbedAttempts): AttemptCounts {
  const own = Object.entries(shim.attempts()).map(([nr, count]): [string, number] => [
    nr,
    count - (probed.counts[Number(nr)] ?? 0),
  ]);
  return Object.fromEntries(own.filter(([, count]) => count > 0));
}

/** An attempt of the library, counted without those that the shim made in its escape probe. */
export function libraryAttempt(attempt: Attempt, { counts }: ProbedAttempts): Attempt {
  return { ...attempt, count: attempt.count - (counts[attempt.nr] ?? 0) };
}

export function sumAttempts(all: readonly AttemptCounts[]): AttemptCounts {
  const sums: Record<number, number> = {};
  for (const counts of all)
    for (const [nr, count] of Object.entries(counts)) sums[Number(nr)] = (sums[Number(nr)] ?? 0) + count;
  return sums;
}
