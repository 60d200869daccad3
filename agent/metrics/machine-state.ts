import type { MachineAudit } from "../audit/machine-audit.ts";
import type { LaunchRecord } from "../launch/environment.ts";
import { violationCounts } from "../report.ts";
import type { Serving } from "../serving.ts";
import type { MachineState } from "./metrics.ts";

/** The machine as it is now; before it serves there are neither tokens nor scopes. */
export function machineState(record: LaunchRecord, audit: MachineAudit, serving: Serving | null): MachineState {
  const { seq } = audit.head();
  const scopes = serving?.live.current.scopes ?? [];
  return {
    state: record.state.kind,
    policySerial: serving?.live.current.serial ?? 0,
    tokens: serving?.domains.status ?? [],
    inFlight: new Map(scopes.map(({ name }) => [name, serving?.usage.inFlight(name) ?? 0])),
    frozen: serving?.live.frozen ?? { all: false, scopes: new Set() },
    violations: violationCounts(record),
    audit: { seq, durableSeq: audit.durableHead().seq, failed: audit.failed },
  };
}
