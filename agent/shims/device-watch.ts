/** How often the machine's devices are listed, in milliseconds. */
const INTERVAL = 1_000;

export interface DeviceChange {
  readonly device: string;
  readonly change: "added" | "removed";
}

export interface DeviceWatchOptions {
  /** Every device as it is now: a multiset, in any order. */
  readonly list: () => Promise<readonly string[]>;
  /** What was there when the launch measured it. */
  readonly measured: readonly string[];
  readonly onChange: (changes: readonly DeviceChange[]) => void;
  readonly interval?: number;
}

/** What came and what went between two lists. Two equal devices are two entries. */
export function deviceChanges(before: readonly string[], after: readonly string[]): readonly DeviceChange[] {
  const left = [...before];
  const changes: DeviceChange[] = [];
  for (const device of after) {
    const at = left.indexOf(device);
    if (at < 0) changes.push({ device, change: "added" });
    else left.splice(at, 1);
  }
  return [...left.map((device): DeviceChange => ({ device, change: "removed" })), ...changes];
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
      const changes = deviceChanges(known, now);
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
