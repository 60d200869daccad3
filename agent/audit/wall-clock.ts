import type { AuditLog } from "./log.ts";

/**
 * The wall clock as far as decisions go by it: never behind a record of the log, nor behind what it said before. A clock that is set back
 * so opens nothing again whose time is over; one that was wrongly ahead keeps it closed until the clock has caught up, or with another log.
 * @param now milliseconds since 1970, of the machine's clock
 */
export function wallClockOf(audit: Pick<AuditLog, "latest">, now: () => number = Date.now): () => number {
  let latest = 0;
  return () => {
    latest = Math.max(latest, audit.latest(), now());
    return latest;
  };
}
