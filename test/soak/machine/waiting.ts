import { setTimeout as delay } from "node:timers/promises";

/** Whoever waits longer waits for something that is stuck, in milliseconds. */
export const STUCK = 120_000;

/** Rejects when it does not become true in so many milliseconds. */
export async function until(what: string, isTrue: () => Promise<boolean>, within = STUCK): Promise<void> {
  const deadline = performance.now() + within;
  while (!(await isTrue())) {
    if (performance.now() > deadline) throw new Error(`no ${what} within ${within / 1000} s`);
    await delay(100);
  }
}

/** Rejects when it takes longer than anything may. */
export async function inTime<T>(what: string, act: Promise<T>): Promise<T> {
  const late = delay(STUCK, null, { ref: false }).then(() => {
    throw new Error(`no ${what} within ${STUCK / 1000} s`);
  });
  late.catch(() => undefined);
  return await Promise.race([act, late]);
}
