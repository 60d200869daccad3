import type { Reason } from "../attest/index.ts";
import type { MachineAudit } from "./audit/machine-audit.ts";
import type { LivePolicy } from "./broker/index.ts";
import type { LaunchRecord } from "./launch/environment.ts";
import { violationCounts } from "./report.ts";
import type { Domains, TokenStatus } from "./shims/domains.ts";
import type { TpmConnection } from "./tpm-connection.ts";

/** What a machine says of itself at any moment: `status` of the control port, and what a doctor judges. */
export interface MachineStatus {
  readonly state: string;
  /** While it serves: what there is to look at. */
  readonly reasons: readonly Reason[];
  readonly phases: readonly { readonly phase: string; readonly at: number }[];
  readonly tokens: readonly TokenStatus[];
  readonly violations: Readonly<Record<string, number>>;
  /** Null until all that follows a launch that serves is done; then what went wrong with it. */
  readonly settled: readonly Reason[] | null;
  /** What this boot refuses, in the policy's order; null while nothing is served. */
  readonly frozen: { readonly all: boolean; readonly scopes: readonly string[] } | null;
}

export interface StatusSources {
  readonly record: LaunchRecord;
  readonly audit: Pick<MachineAudit, "warnings">;
  /** Null until the launch serves. */
  readonly domains: () => Pick<Domains, "status" | "warnings"> | null;
  readonly live: () => LivePolicy | null;
  readonly connection: Pick<TpmConnection, "warnings">;
}

export function machineStatus({ record, audit, domains, live, connection }: StatusSources): MachineStatus {
  return {
    state: record.state.kind,
    reasons:
      "reasons" in record.state
        ? record.state.reasons
        : [...(domains()?.warnings ?? []), ...audit.warnings, ...connection.warnings],
    phases: record.phases.map(({ kind, at }) => ({ phase: kind, at: Math.round(at) })),
    tokens: domains()?.status ?? [],
    violations: Object.fromEntries(violationCounts(record)),
    settled: record.settled ?? null,
    frozen: frozenScopes(live()),
  };
}

function frozenScopes(live: LivePolicy | null): MachineStatus["frozen"] {
  if (live === null) return null;
  const { all, scopes } = live.frozen;
  return { all, scopes: live.current.scopes.flatMap(({ name }) => (scopes.has(name) ? [name] : [])) };
}
