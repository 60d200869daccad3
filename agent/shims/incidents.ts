import { type LaunchEvent, launchEvent } from "../../attest/index.ts";
import { type CborValue, encodeCbor, sha256, syscallName } from "../../policy/index.ts";
import type { AuditLog } from "../audit.ts";
import type { MeasurementLog } from "../launch/measurement-log.ts";
import type { Attempt } from "../native/index.ts";

/** Incidents of one boot that are recorded one by one; a report has room for no more. */
export const MAX_INCIDENTS = 64;
/** Of these, kept for shims that are replaced: 16 shims of a machine end at most once each. */
const KEPT_FOR_SHIMS = 16;
const MAX_WHY = 200;

export type IncidentDetail = Readonly<Record<string, string | number | readonly bigint[]>>;

/** What happened after the cap, as reports carry it: its digest is the one of its event in the agent's log. */
export interface Incident {
  readonly kind: "violation" | "shim-replaced";
  /** Name of its event. */
  readonly name: string;
  readonly detail: IncidentDetail;
}

export interface ShimReplaced {
  readonly token: string;
  readonly from: number;
  /** -1: no shim was left. */
  readonly to: number;
  readonly why: string;
}

interface IncidentParts {
  readonly log: Pick<MeasurementLog, "measure">;
  readonly audit: Pick<AuditLog, "append">;
}

/**
 * What goes wrong after the launch, written down in three places in this order: the audit log, the agent PCR, the list for reports.
 * The first ones in full; from then on only counts go on, so that a flood fills nothing.
 */
export class IncidentLog {
  readonly #parts: IncidentParts;
  #list: readonly Incident[] = [];
  #taken = { violations: 0, shims: 0 };

  constructor(parts: IncidentParts) {
    this.#parts = parts;
  }

  /** Those that are in the agent's log, in its order. */
  get list(): readonly Incident[] {
    return this.#list;
  }

  /** Whether a violation was recorded in this boot. */
  get violated(): boolean {
    return this.#taken.violations > 0;
  }

  /** One watched attempt. Resolves when it is in the log, at once when there is no room for it. */
  violation(token: string, shim: number, attempt: Attempt): Promise<void> {
    if (!this.#takeViolation()) return Promise.resolve();
    const { nr, args, tid, count } = attempt;
    const syscall = syscallName(nr);
    return this.#record(
      {
        kind: "violation",
        name: `${token}/${shim} ${syscall}`,
        detail: { token, shim, syscall, nr, args, thread: tid, count },
      },
      { subject: token, decision: "deny", reason: `violation: ${syscall} by shim ${shim}` },
    );
  }

  /** A device that came or went while the machine serves. */
  device(device: string, change: "added" | "removed"): Promise<void> {
    if (!this.#takeViolation()) return Promise.resolve();
    return this.#record(
      { kind: "violation", name: `device ${device}`, detail: { device, change } },
      { subject: "devices", decision: "deny", reason: `violation: device ${device} ${change}` },
    );
  }

  /** @param settle what becomes true with the event, under the log's lock */
  replaced({ token, from, to, why }: ShimReplaced, settle: () => void): Promise<void> {
    if (this.#taken.shims >= KEPT_FOR_SHIMS) throw new TypeError(`shim replaced: more than ${KEPT_FOR_SHIMS} times`);
    this.#taken.shims += 1;
    const short = why.slice(0, MAX_WHY);
    const reason =
      to < 0 ? `shim ${from} ended, none is left: ${short}` : `shim ${to} takes over from ${from}: ${short}`;
    return this.#record(
      { kind: "shim-replaced", name: token, detail: { token, from, to, why: short } },
      { subject: token, decision: to < 0 ? "deny" : "allow", reason },
      settle,
    );
  }

  #takeViolation(): boolean {
    if (this.#taken.violations >= MAX_INCIDENTS - KEPT_FOR_SHIMS) return false;
    this.#taken.violations += 1;
    return true;
  }

  async #record(
    incident: Incident,
    { subject, decision, reason }: { subject: string; decision: "allow" | "deny"; reason: string },
    settle: () => void = () => undefined,
  ): Promise<void> {
    const { audit, log } = this.#parts;
    const nothing = { caller: null, key: null, mechanism: null, inputDigest: null, step: null } as const;
    // A log that cannot be written stops every signature by itself; the event is measured all the same.
    await audit
      .append({ ...nothing, scope: subject, operation: "shim", decision, reason }, "written")
      .catch(() => undefined);
    await log.measure(incidentEvent(incident), () => {
      this.#list = [...this.#list, incident];
      settle();
    });
  }
}

export function incidentEvent({ kind, name, detail }: Incident): LaunchEvent {
  return launchEvent(kind, name, sha256(encodeCbor(detailMap(detail))));
}

function detailMap(detail: IncidentDetail): ReadonlyMap<string, CborValue> {
  return new Map(
    Object.entries(detail).map(([name, value]): [string, CborValue] => [
      name,
      typeof value === "object" ? [...value] : value,
    ]),
  );
}
