import type { Serving } from "../after-launch.ts";
import type { MachineAudit } from "../audit/machine-audit.ts";
import type { LaunchRecord } from "../launch/environment.ts";
import { violationCounts } from "../report.ts";
import type { MachineState } from "./metrics.ts";

type Audit = Pick<MachineAudit, "head" | "durableHead" | "failed" | "warnings">;

/** The machine as it is now; before it serves there are neither tokens nor scopes. */
export function machineState(record: LaunchRecord, audit: Audit, serving: Serving | null): MachineState {
  const { seq } = audit.head();
  const warned = new Set(audit.warnings.map(({ code }) => code));
  const full = warned.has("audit-full");
  const scopes = serving?.live.current.scopes ?? [];
  return {
    state: record.state.kind,
    policySerial: serving?.live.current.serial ?? 0,
    tokens: serving?.domains.status ?? [],
    inFlight: new Map(scopes.map(({ name }) => [name, serving?.usage.inFlight(name) ?? 0])),
    frozen: serving?.live.frozen ?? { all: false, scopes: new Set() },
    violations: violationCounts(record),
    audit: {
      ...{ seq, durableSeq: audit.durableHead().seq },
      failed: audit.failed || full || warned.has("audit-stopped"),
      spaceLow: full || warned.has("audit-space-low"),
    },
  };
}
