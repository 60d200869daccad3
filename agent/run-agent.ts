// The guest service from its start to its end: opens its parts, launches once, answers the control port.

import { realpathSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { type MachineTpm, memoryMedium, openStandbyUnsealer, openStoreFile, openTpm, Store } from "../seal/index.ts";
import { beginServing, describe, type Serving, tryLater } from "./after-launch.ts";
import { NO_REQUESTS } from "./approvals/index.ts";
import { CHECKPOINT_PURPOSE } from "./audit/checkpoint.ts";
import { MachineAudit } from "./audit/machine-audit.ts";
import { openAudit } from "./audit/open.ts";
import { type AgentConfig, parseConfig } from "./config.ts";
import { controlService, serveControl } from "./control/machine.ts";
import { createSealingService } from "./control/sealing.ts";
import { createSessions } from "./control/sessions.ts";
import { type RunningMachine, runningDoctor } from "./doctor/running.ts";
import { failureOf, journal } from "./journal.ts";
import { readCabinetInputs } from "./launch/cabinet.ts";
import { type LaunchEnvironment, newLaunchRecord } from "./launch/environment.ts";
import { launch } from "./launch/launch.ts";
import { MeasurementLog } from "./launch/measurement-log.ts";
import type { StatusSources } from "./machine-status.ts";
import { machineState } from "./metrics/machine-state.ts";
import { Metrics } from "./metrics/metrics.ts";
import { type Native, openNative } from "./native/index.ts";
import { openSources, type Sources } from "./report-sources.ts";
import { Restrictions } from "./restrictions/index.ts";
import { type ListenEnvironment, parseListenFds } from "./scopes/listen-fds.ts";
import { turnAway } from "./scopes/turn-away.ts";
import { openShim } from "./shim-client.ts";
import { type AgentLoss, countAgentLoss } from "./shims/agent-loss.ts";
import { openSpawner } from "./spawner-client.ts";
import { createStateVolume } from "./state-volume.ts";
import { TpmConnection } from "./tpm-connection.ts";
import { createTurns } from "./turns.ts";
import { visibleDevices } from "./visible-devices.ts";

/** The spawner leaves its socket here (SPAWNER.md). */
const SPAWNER_FD = 3;

/**
 * Run the guest service: it launches once, then answers and serves until the machine stops.
 * @param listen names the listening sockets that lie behind the spawner's, where a service manager opened them
 */
export async function runAgent(configPath: string, listen: ListenEnvironment): Promise<never> {
  const record = newLaunchRecord();
  const inherited = parseListenFds(listen, { pid: process.pid, first: SPAWNER_FD + 1 });
  const configBytes = new Uint8Array(await readFile(configPath));
  const config = parseConfig(configBytes);
  // First of all: an agent that dies below is counted by the next one.
  const { store, storeKeeps, agentLoss } = openStore(config);
  const native = openNative(config.programs);
  native.setNonDumpable();
  const spawner = openSpawner(native, SPAWNER_FD);
  const tpm = await openTpm({ tcti: config.tcti, nativeDirectory: config.programs });
  const inputs = await readCabinetInputs(config.cabinet, store.content);
  const log = new MeasurementLog(tpm, config.agentPcr);
  const audit = new MachineAudit();
  if (!config.stateVolume) audit.open(openAudit({ directory: config.auditLog, now: Date.now, anchor: null }));
  let serving: Serving | null = null;
  const parts = { config, configBytes, tpm, store, agentLoss, log, spawner, inputs };
  const environment = await environmentOf(parts, native, audit);
  const domains = () => serving?.domains ?? null;
  const connection = new TpmConnection(tpm);
  const gathered = { config, tpm, log, record, inputs: inputs.partial, audit, spawner, domains, connection };
  const sources = await openSources(gathered);
  await signCheckpoints(audit, tpm, sources);
  // The same signal a second time ends the process: by then the log is signed and anchored.
  const stopAudit = () => audit.stop().catch((error: unknown) => journal.error(`audit log: ${failureOf(error)}`));
  process.once("SIGTERM", () => void stopAudit().then(() => process.kill(process.pid, "SIGTERM")));
  const turns = createTurns();
  const metrics = new Metrics(() => machineState(record, audit, serving));
  const restrictions = new Restrictions({
    ...{ tss: tpm.tss, log, audit, turns, unrecorded: (what: string) => journal.error(what) },
    policy: () => inputs.partial.policy,
    release: () => record.release,
  });
  const sealing = createSealingService(environment, { record, storeKeeps, identity: sources, turns });
  const operated = operatedParts({ ...gathered, environment, configPath, sealing }, () => serving);
  const { ended } = await serveControl(
    config,
    controlService(gathered, sources, { ...operated, sealing, restrictions, metrics }),
  );
  const launched = await launch(environment, record);
  connection.begin();
  if (launched === null) {
    journal.error(describe(record));
    turnAway(native, inherited);
  }
  const { policy, policyBytes } = inputs.partial;
  if (policy === undefined || policyBytes === undefined) return ended;
  if (launched === null) await tryLater(environment, record, policy, storeKeeps);
  else
    await beginServing(
      {
        ...{ environment, record, policy, policyBytes, launched, audit, storeKeeps },
        ...{ config, native, spawner, sources, restrictions, metrics, inherited },
      },
      (begun) => {
        serving = begun;
      },
    );
  return ended;
}

type OpenedParts = Pick<
  LaunchEnvironment,
  "config" | "configBytes" | "store" | "agentLoss" | "log" | "spawner" | "inputs"
> & { readonly tpm: MachineTpm };

async function environmentOf(parts: OpenedParts, native: Native, audit: MachineAudit): Promise<LaunchEnvironment> {
  const { config, tpm, spawner } = parts;
  const volume = { tss: tpm.tss, spawner, native, auditLog: config.auditLog, audit, now: Date.now };
  return {
    ...parts,
    tss: tpm.tss,
    now: Date.now,
    stateVolume: config.stateVolume ? createStateVolume(volume) : null,
    // It comes up while an attestation key is made, for which the TPM takes its time.
    unsealer: openStandbyUnsealer({ path: `${config.programs}/unsealer`, tcti: config.tcti }, native),
    devices: await visibleDevices(config),
    closeFd: (fd) => native.closeFd(fd),
    realPath: (path) => realpathSync(path),
    openShim: (fd, onAttempt) => openShim(fd, native, { onAttempt }),
  };
}

/** What an operator looks at, and ends, while it serves. */
function operatedParts(
  machine: Omit<RunningMachine, "status"> & Omit<StatusSources, "live"> & { readonly audit: MachineAudit },
  serving: () => Serving | null,
) {
  const { audit } = machine;
  const live = () => serving()?.live ?? null;
  return {
    live,
    approvals: () => serving()?.approvals ?? NO_REQUESTS,
    sessions: createSessions({ serving, audit }),
    doctor: runningDoctor({ ...machine, status: { ...machine, live } }),
  };
}

/** Without an attestation key the log goes on without checkpoints, and nothing of it is ever deleted. */
async function signCheckpoints(audit: MachineAudit, tpm: MachineTpm, sources: Sources): Promise<void> {
  try {
    audit.signWith(await tpm.certifiedKey(sources().ak, CHECKPOINT_PURPOSE));
  } catch (error) {
    journal.error(`no checkpoints: ${failureOf(error)}`);
  }
}

interface OpenStore {
  readonly store: Store;
  readonly storeKeeps: boolean;
  readonly agentLoss: AgentLoss | null;
}

/**
 * What the machine keeps from boot to boot. Without a usable store everything still works, but the imports are made again, and no reseal
 * is taken in. It is not made here: where a disk is missing, a file in its place would be gone with the boot.
 */
function openStore({ store: path }: AgentConfig): OpenStore {
  const forgetful = { store: Store.open(memoryMedium()).store, storeKeeps: false, agentLoss: null };
  if (path === null) return forgetful;
  try {
    const medium = openStoreFile(path, { create: false });
    const { store, opened } = Store.open(medium);
    if (opened.damaged) journal.warning("store: no valid copy, begun again");
    return { store, storeKeeps: true, agentLoss: countAgentLoss(store, medium) };
  } catch (error) {
    journal.error(`${failureOf(error)}, going on without a store`);
    return forgetful;
  }
}
