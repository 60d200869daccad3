// What follows the launch: of a good one scopes and workloads are served, of a refused one another may come later.

import type { Policy } from "../policy/index.ts";
import type { Approvals } from "./approvals/index.ts";
import { openApprovals } from "./approvals/index.ts";
import type { MachineAudit } from "./audit/machine-audit.ts";
import { LivePolicy, Usage } from "./broker/index.ts";
import type { AgentConfig } from "./config.ts";
import { journal } from "./journal.ts";
import { addReasons, enter, type LaunchEnvironment, type LaunchRecord } from "./launch/environment.ts";
import type { Launched } from "./launch/launch.ts";
import { enterServing, settleServed } from "./launch/served.ts";
import type { Metrics } from "./metrics/metrics.ts";
import type { Native } from "./native/index.ts";
import type { Sources } from "./report-sources.ts";
import type { Restrictions } from "./restrictions/index.ts";
import { serveScopes } from "./scopes/all-scopes.ts";
import { Connections } from "./scopes/index.ts";
import { afterAgentLoss, isAgentLossAlone } from "./shims/agent-loss.ts";
import { watchDevices } from "./shims/device-watch.ts";
import { Domains } from "./shims/domains.ts";
import { IncidentLog } from "./shims/incidents.ts";
import { isOutageAgain, recover } from "./shims/recovery.ts";
import type { Spawner } from "./spawner-client.ts";
import { visibleDevices } from "./visible-devices.ts";

/** A machine that serves. */
export interface Serving {
  readonly domains: Domains;
  readonly approvals: Approvals;
  readonly live: LivePolicy;
  readonly usage: Usage;
  readonly connections: Connections;
}

export interface ServingParts {
  readonly environment: LaunchEnvironment;
  readonly record: LaunchRecord;
  readonly policy: Policy;
  readonly policyBytes: Uint8Array;
  readonly launched: Launched;
  readonly audit: MachineAudit;
  readonly storeKeeps: boolean;
  readonly config: AgentConfig;
  readonly native: Native;
  readonly spawner: Spawner;
  readonly sources: Sources;
  readonly restrictions: Restrictions;
  readonly metrics: Metrics;
  /** Listening sockets that the agent was started with, by scope. */
  readonly inherited: ReadonlyMap<string, number>;
}

/**
 * What follows a good launch: the shims are watched, what is frozen is read, every scope has its socket, then the workloads start.
 * @param opened is told before a socket opens: reports and `status` speak of it from then on
 */
export async function beginServing(parts: ServingParts, opened: (serving: Serving) => void): Promise<void> {
  const { environment, record, policy, policyBytes, launched, audit, sources, restrictions } = parts;
  const { config, native, spawner, metrics, inherited } = parts;
  const live = new LivePolicy(policy);
  const now = () => native.bootTime();
  const usage = new Usage(now);
  const connections = new Connections();
  const domains = openDomains(parts);
  const approvals = openApprovals({
    policy: () => live.current,
    policyBytes,
    akName: () => sources().ak.name,
    audit,
    now,
  });
  opened({ domains, approvals, live, usage, connections });
  await restrictions.begin(live);
  metrics.begin(policy.scopes.map(({ name }) => name));
  await serveScopes({
    ...{ config, live, usage, connections, approvals: approvals.gate, meter: metrics, keys: launched.keys },
    ...{ domains, audit, native, spawner, inherited },
  });
  await enterServing(environment, record, policy);
  journal.write(record.state.kind === "serving" ? "notice" : "error", describe(record));
  await spawner.startWorkloads();
  record.settled = await settleServed(environment, record);
  for (const problem of record.settled) {
    journal.warning(`after the launch: ${problem.code} ${problem.item}: ${problem.got}`);
  }
}

/** One line for the console; the report has the rest. */
export function describe({ state }: LaunchRecord): string {
  if (!("reasons" in state)) return state.kind;
  return `${state.kind}: ${state.reasons.map(({ code, item }) => `${code} ${item}`).join("; ")}`;
}

/** What follows a launch that was refused for a loss that may pass by itself: another one, later. */
export async function tryLater(
  environment: LaunchEnvironment,
  record: LaunchRecord,
  policy: Policy,
  storeKeeps: boolean,
): Promise<void> {
  launchLater(environment, record, policy);
  await recoverAgain(environment, record, policy, storeKeeps);
}

/** A machine whose launch was put off because its agent was lost again makes it after a reboot. */
function launchLater({ agentLoss, spawner }: LaunchEnvironment, { state }: LaunchRecord, policy: Policy): void {
  const after = afterAgentLoss(agentLoss, policy);
  if (after.kind !== "wait" || state.kind !== "refused" || !isAgentLossAlone(state.reasons)) return;
  journal.error(`agent lost, reboot in ${after.delay / 1000} s`);
  setTimeout(() => void spawner.capAndReboot("agent lost: the next launch"), after.delay);
}

/** A machine that rebooted because its login was lost, and finds its HSM still away, goes on trying for as long as it may. */
async function recoverAgain(
  { store, spawner, log }: LaunchEnvironment,
  record: LaunchRecord,
  { onLoginLost }: Policy,
  storeKeeps: boolean,
): Promise<void> {
  const { state } = record;
  if (state.kind !== "refused" || !storeKeeps || !isOutageAgain(state.reasons, store)) return;
  const capAndReboot = (reason: string) => spawner.capAndReboot(reason);
  const without = recover({
    onLoginLost,
    violated: false,
    store,
    capAndReboot,
    why: "login lost: the HSM is still away",
  });
  for (const { code, got } of without) journal.error(`${code}: ${got}`);
  await log.locked(async () => addReasons(record, without));
}

/** Takes the shims of a good launch over, and keeps an eye on them and on the machine's devices. */
function openDomains({ environment, record, policy, launched, audit, storeKeeps }: ServingParts): Domains {
  const { log, spawner, store, config, devices } = environment;
  const { onViolation, onLoginLost } = policy;
  const domains = new Domains({
    ...{ tokens: launched.tokens, onViolation, onLoginLost, store: storeKeeps ? store : null },
    keys: new Map(launched.keys.map(({ name, token }) => [name, token])),
    incidents: new IncidentLog({ log, audit, record }),
    stopShim: (id) => spawner.stopShim(id),
    capAndReboot: (reason) => spawner.capAndReboot(reason),
    // Under the lock: no report tells of one state and holds the log of the other.
    onStopped: (reasons) => log.locked(async () => enter(record, { kind: "stopped", reasons })),
    onReasons: (reasons) => log.locked(async () => addReasons(record, reasons)),
  });
  launched.bell.ring = () => domains.checkAttempts();
  const list = () => visibleDevices(config);
  watchDevices({
    ...{ list, measured: devices, onChange: (changes) => domains.devicesChanged(changes) },
    onUnreadable: (why) => domains.devicesUnreadable(why),
  });
  return domains;
}
