import { compareDevices, type DeviceChange } from "../../attest/index.ts";

/** How often the machine's devices are listed, in milliseconds. */
const INTERVAL = 1_000;
/** Looks in a row that fail before it counts: a device that goes while it is read makes one or two. */
const MAX_FAILED = 5;

export interface DeviceWatchOptions {
  /** Every device as it is now: a multiset, in any order. */
  readonly list: () => Promise<readonly string[]>;
  /** What was there when the launch measured it. */
  readonly measured: readonly string[];
  readonly onChange: (changes: readonly DeviceChange[]) => void;
  /** Five looks in a row failed, or have not ended: nobody sees any more what is plugged in. Once for each such stretch. */
  readonly onUnreadable: (why: string) => void;
  readonly interval?: number;
}

/**
 * Looks for devices that come or go while the machine serves. One that comes and goes between two looks is not seen, and neither is one
 * that takes the place of another of the same kind. A list that cannot be read is read again.
 * @returns how to end it
 */
export function watchDevices(options: DeviceWatchOptions): () => void {
  const { list, measured, onChange, onUnreadable, interval = INTERVAL } = options;
  let known = measured;
  let looking = false;
  let failed = 0;
  const fail = (why: string): void => {
    failed += 1;
    if (failed === MAX_FAILED) onUnreadable(why);
  };
  const look = async (): Promise<void> => {
    if (looking) return fail("a look that does not end");
    looking = true;
    try {
      const now = await list();
      failed = 0;
      const changes = compareDevices(known, now);
      known = now;
      if (changes.length > 0) onChange(changes);
    } catch (error) {
      fail(error instanceof Error ? error.message : "unknown failure");
    } finally {
      looking = false;
    }
  };
  const timer = setInterval(() => void look(), interval);
  timer.unref();
  return () => clearInterval(timer);
}
