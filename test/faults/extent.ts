import { inject } from "vitest";
import { seededRandom } from "../fuzz/random.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** `all`: every case of every family (`npm run faults`). `some`: as many as a run of all tests has time for. */
    faults: "all" | "some";
  }
}

export const isExhaustive = (): boolean => inject("faults") === "all";

/** All of the cases, or so many of them: the same ones at each run, the first and the last among them. */
export function casesOf<T>(all: readonly T[], some: number): readonly T[] {
  if (isExhaustive() || all.length <= some) return all;
  const random = seededRandom(all.length);
  const chosen = new Set([0, all.length - 1]);
  while (chosen.size < some) chosen.add(random.below(all.length));
  return all.filter((_, index) => chosen.has(index));
}

/** Longer than anything here takes on a busy machine: what is not done by then hangs. */
const HANGS = 180_000;

/** Ends a run whose operation does not, with the case's name: a test's own timeout names none. */
export async function endsInTime<T>(what: string, act: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const hangs = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: hangs`)), HANGS);
  });
  try {
    return await Promise.race([act, hangs]);
  } finally {
    clearTimeout(timer);
  }
}
