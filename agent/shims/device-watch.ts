import { compareDevices, type DeviceChange } from "../../attest/index.ts";

/** How often the machine's devices are listed, in milliseconds. */
const INTERVAL = 1_000;

export interface DeviceWatchOptions {
  /** Every device as it is now: a multiset, in any order. */
  readonly list: () => Promise<readonly string[]>;
  /** What was there when the launch measured it. */
  readonly measured: readonly string[];
  readonly onChange: (changes: readonly DeviceChange[]) => void;
  readonly interval?: number;
}

/**
 * Looks for devices that come or go while the machine serves. One that comes and goes between two looks is not seen, and neither is one
 * that takes the place of another of the same kind. Lists that cannot be read are read again.
 * @returns how to end it
 */
export function watchDevices({ list, measured, onChange, interval = INTERVAL }: DeviceWatchOptions): () => void {
  let known = measured;
  let looking = false;
  const look = async (): Promise<void> => {
    if (looking) return;
    looking = true;
    try {
      const now = await list();
      const changes = compareDevices(known, now);
      known = now;
      if (changes.length > 0) onChange(changes);
    } catch {
      // a device that goes while it is read: the next look sees it
    } finally {
      looking = false;
    }
  };
  const timer = setInterval(() => void look(), interval);
  timer.unref();
  return () => clearInterval(timer);
}
