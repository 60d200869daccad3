import { type Incident, incidentEvent, MAX_INCIDENTS, type ShimReplacement } from "../../attest/index.ts";
import { syscallName } from "../../policy/index.ts";
import type { AuditLog } from "../audit.ts";
import type { AuditEntry } from "../audit-record.ts";
import type { MeasurementLog } from "../launch/measurement-log.ts";
import type { Attempt } from "../native/index.ts";

/** Of the incidents that a report has room for, those kept for shims that are replaced: 16 shims of a machine end once each. */
const KEPT_FOR_SHIMS = 16;
/** Violations that are recorded one by one. */
export const MAX_VIOLATIONS: number = MAX_INCIDENTS - KEPT_FOR_SHIMS;
/** Length of a text in an incident, and of why a shim ended. */
const MAX_TEXT = 48;
const MAX_WHY = 200;

interface IncidentParts {
  readonly log: Pick<MeasurementLog, "measure">;
  readonly audit: Pick<AuditLog, "append">;
  /** Where reports take them from: those that are in the agent's log, in its order. */
  readonly record: { incidents: readonly Incident[] };
}

/**
 * What goes wrong after the launch, written down in three places in this order: the audit log, the agent PCR, the list for reports.
 * The first ones in full; from then on only counts go on, so that a flood fills nothing.
 */
export class IncidentLog {
  readonly #parts: IncidentParts;
  #violations = 0;
  #replacements = 0;

  constructor(parts: IncidentParts) {
    this.#parts = parts;
  }

  /** Whether a violation was recorded in this boot. */
  get violated(): boolean {
    return this.#violations > 0;
  }

  /** One watched attempt. Resolves when it is in the log, at once when there is no room for it. */
  violation(token: string, shim: number, attempt: Attempt): Promise<void> {
    if (!this.#takeViolation()) return Promise.resolve();
    const { args, tid, count } = attempt;
    // A number below 0 is none of any table; the kernel lets a process ask for it.
    const nr = Math.max(0, attempt.nr);
    const syscall = syscallName(attempt.nr).slice(0, MAX_TEXT);
    const incident = { what: "syscall", token, shim, syscall, nr, args, thread: tid, count } as const;
    return this.#record(incident, { scope: token, decision: "deny", reason: `violation: ${syscall} by shim ${shim}` });
  }

  /** A device that came or went while the machine serves. */
  device(device: string, change: "added" | "removed"): Promise<void> {
    if (!this.#takeViolation()) return Promise.resolve();
    const reason = `violation: device ${device} ${change}`;
    return this.#record({ what: "device", device, change }, { scope: "devices", decision: "deny", reason });
  }

  /** @param settle what becomes true with the event, under the log's lock */
  replaced({ token, from, to, why }: Omit<ShimReplacement, "what">, settle: () => void): Promise<void> {
    if (this.#replacements >= KEPT_FOR_SHIMS) throw new TypeError(`shim replaced: more than ${KEPT_FOR_SHIMS} times`);
    this.#replacements += 1;
    const short = why.slice(0, MAX_WHY);
    const taken = to >= 0;
    const reason = taken
      ? `shim ${to} takes over from ${from}: ${short}`
      : `shim ${from} ended, none is left: ${short}`;
    const said = { scope: token, decision: taken ? "allow" : "deny", reason } as const;
    return this.#record({ what: "replacement", token, from, to, why: short }, said, settle);
  }

  #takeViolation(): boolean {
    if (this.#violations >= MAX_VIOLATIONS) return false;
    this.#violations += 1;
    return true;
  }

  async #record(
    incident: Incident,
    said: Pick<AuditEntry, "scope" | "decision" | "reason">,
    settle: () => void = () => undefined,
  ): Promise<void> {
    const { audit, log, record } = this.#parts;
    const nothing = { caller: null, key: null, mechanism: null, inputDigest: null, step: null } as const;
    // A log that cannot be written stops every signature by itself; the event is measured all the same.
    await audit.append({ ...nothing, ...said, operation: "shim" }, "written").catch(() => undefined);
    await log.measure(incidentEvent(incident), () => {
      record.incidents = [...record.incidents, incident];
      settle();
    });
  }
}
