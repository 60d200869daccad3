import {
  cutText,
  type Incident,
  incidentEvent,
  MAX_DEVICE_INCIDENTS,
  MAX_WHY,
  type ShimReplacement,
} from "../../attest/index.ts";
import { syscallName } from "../../policy/index.ts";
import type { AuditLog } from "../audit/log.ts";
import type { AuditEntry } from "../audit/record.ts";
import type { MeasurementLog } from "../launch/measurement-log.ts";
import type { Attempt } from "../native/index.ts";
import type { ArrivingKey } from "./arrivals.ts";

/**
 * How many of each kind are recorded one by one; together as many as a report has room for. Each kind has a room of its own, so that a
 * library that floods the one does not hide the others: a shim ends once, and there are sixteen.
 */
export const ROOM: Readonly<Record<Incident["what"], number>> = {
  syscall: 40,
  device: MAX_DEVICE_INCIDENTS,
  replacement: 16,
};

/** Length of a text in an incident. */
const MAX_TEXT = 48;

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
  readonly #taken: Record<Incident["what"], number> = { syscall: 0, device: 0, replacement: 0 };
  #violated = false;

  constructor(parts: IncidentParts) {
    this.#parts = parts;
  }

  /** Whether there was a violation in this boot, recorded one by one or not. */
  get violated(): boolean {
    return this.#violated;
  }

  /** One watched attempt. Resolves when it is in the log, at once when there is no room for it. */
  violation(token: string, shim: number, attempt: Attempt): Promise<void> {
    this.#violated = true;
    if (!this.#takePlace("syscall")) return Promise.resolve();
    const { args, tid, count } = attempt;
    // A number below 0 is none of any table; the kernel lets a process ask for it.
    const nr = Math.max(0, attempt.nr);
    const syscall = syscallName(attempt.nr).slice(0, MAX_TEXT);
    const incident = { what: "syscall", token, shim, syscall, nr, args, thread: tid, count } as const;
    return this.#record(incident, { scope: token, decision: "deny", reason: `violation: ${syscall} by shim ${shim}` });
  }

  /** A device that came or went while the machine serves. One that went is no violation: it may be the HSM that was lost. */
  device(device: string, change: "added" | "removed"): Promise<void> {
    if (change === "added") this.#violated = true;
    if (!this.#takePlace("device")) return Promise.resolve();
    const reason = change === "added" ? `violation: device ${device} added` : `device ${device} removed`;
    return this.#record({ what: "device", device, change }, { scope: "devices", decision: "deny", reason });
  }

  /** Nobody knows any more which devices there are. No event says so: there is no device to name. */
  async devicesUnreadable(why: string): Promise<void> {
    this.#violated = true;
    await this.#write({ scope: "devices", decision: "deny", reason: `violation: devices unreadable: ${cut(why)}` });
  }

  /**
   * @param replaced with how many others of the token serve on, in the record only
   * @param settle what becomes true with the event, under the log's lock
   */
  replaced(replaced: Omit<ShimReplacement, "what"> & { readonly others?: number }, settle: () => void): Promise<void> {
    const { token, from, to, why, others = 0 } = replaced;
    if (!this.#takePlace("replacement")) throw new TypeError(`shim replaced: more than ${ROOM.replacement} times`);
    const short = cut(why);
    const taken = to >= 0;
    const reason = taken
      ? `shim ${to} takes over from ${from}: ${short}`
      : `shim ${from} ended, ${others === 0 ? "none is left" : `no spare is left, ${others} serve on`}: ${short}`;
    const said = { scope: token, decision: taken ? "allow" : "deny", reason } as const;
    return this.#record({ what: "replacement", token, from, to, why: short }, said, settle);
  }

  /**
   * A key that had arrived is unwrapped again in a shim that took over. Resolves when the record is on the disk.
   * @throws AgentError ERR_AUDIT_WRITE: it must not be
   */
  async unwrapping(shim: number, { name, by, blob }: Pick<ArrivingKey, "name" | "by" | "blob">): Promise<void> {
    const [scope = "", key = ""] = name.split("/");
    const nothing = { caller: null, mechanism: null, step: null, approvals: [] } as const;
    const reason = `${key} again, in shim ${shim} that took over`;
    const entry = { ...nothing, scope, key: by, inputDigest: blob, reason } as const;
    await this.#parts.audit.append({ ...entry, operation: "unwrap", decision: "allow" }, "durable");
  }

  /** Before anything is awaited: attempts come faster than a TPM extends. */
  #takePlace(what: Incident["what"]): boolean {
    if (this.#taken[what] >= ROOM[what]) return false;
    this.#taken[what] += 1;
    return true;
  }

  async #record(
    incident: Incident,
    said: Pick<AuditEntry, "scope" | "decision" | "reason">,
    settle: () => void = () => undefined,
  ): Promise<void> {
    const { log, record } = this.#parts;
    await this.#write(said);
    await log.measure(incidentEvent(incident), () => {
      record.incidents = [...record.incidents, incident];
      settle();
    });
  }

  async #write(said: Pick<AuditEntry, "scope" | "decision" | "reason">): Promise<void> {
    const nothing = { caller: null, key: null, mechanism: null, inputDigest: null, step: null, approvals: [] } as const;
    // A log that cannot be written stops every signature by itself; an event is measured all the same.
    await this.#parts.audit.append({ ...nothing, ...said, operation: "shim" }, "written").catch(() => undefined);
  }
}

/** CBOR has no lone surrogate. */
function cut(why: string): string {
  return cutText(why.toWellFormed(), MAX_WHY);
}
