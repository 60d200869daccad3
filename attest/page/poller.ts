/// <reference lib="dom" />
import { ServiceFailure } from "./client.ts";

export interface Poller {
  /** `null`: paused. */
  every(seconds: number | null): void;
  now(): void;
  stop(): void;
}

const longestWaitMs = 120_000;

/**
 * Runs `work` at once and then again and again, one at a time. Waits longer after failures and as long as the service asks, and
 * rests while nobody looks at the tab.
 */
export function createPoller(work: () => Promise<void>, onFailure: (error: unknown) => void): Poller {
  let seconds: number | null = null;
  let timer: number | undefined;
  let failures = 0;
  let running = false;
  let stopped = false;

  const schedule = (ms: number) => {
    clearTimeout(timer);
    if (!stopped) timer = window.setTimeout(run, ms);
  };
  /** One round; how long to wait after it. */
  const round = async (): Promise<number> => {
    const usual = (seconds ?? 0) * 1000;
    try {
      await work();
      failures = 0;
      return usual;
    } catch (error) {
      failures += 1;
      if (!stopped) onFailure(error);
      const asked = error instanceof ServiceFailure ? (error.retryAfterSeconds ?? 0) * 1000 : 0;
      return Math.max(asked, Math.min(usual * 2 ** Math.min(failures, 5), longestWaitMs));
    }
  };
  const run = async () => {
    if (running || stopped) return;
    if (document.hidden) return schedule(1000);
    running = true;
    clearTimeout(timer);
    const wait = await round();
    running = false;
    if (seconds !== null) schedule(wait);
  };
  return {
    every(given) {
      seconds = given;
      clearTimeout(timer);
      if (given !== null) schedule(given * 1000);
    },
    now: () => void run(),
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
