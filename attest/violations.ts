import type { Claims } from "./claims.ts";
import { type DeviceViolation, incidentName } from "./incidents.ts";

/** What happened on a machine against its policy since the launch. */
export interface Violations {
  /** Devices that came or went, in their order. */
  readonly devices: readonly DeviceViolation[];
  /** Denied calls of the libraries. */
  readonly calls: number;
  /** Their names, those that were measured one by one before those that were counted only. */
  readonly callNames: readonly string[];
  /** Devices that came and denied calls. A device that went takes something away, and is none of them. */
  readonly count: number;
}

/**
 * Of verified claims, whose incidents are the log's. Devices and calls are added up, so that neither hides among the other. Of the calls the
 * larger number decides: events cannot be retracted, and the counts go on after the first recorded ones.
 *
 * Does not establish that nothing else happened: devices are listed now and then, and of calls only the watched ones are shown.
 */
export function violationsOf({ incidents, violations }: Claims["asserted"]): Violations {
  const measured = incidents.flatMap((incident) => (incident.what === "syscall" ? [incidentName(incident)] : []));
  const devices = incidents.filter((incident) => incident.what === "device");
  const added = devices.filter(({ change }) => change === "added").length;
  const calls = Math.max(measured.length, sum(violations.values()));
  return { devices, calls, callNames: [...new Set([...measured, ...violations.keys()])], count: sum([added, calls]) };
}

/** Each count may be as large as a number can be exact. */
function sum(counts: Iterable<number>): number {
  return [...counts].reduce((total, count) => Math.min(total + count, Number.MAX_SAFE_INTEGER), 0);
}
