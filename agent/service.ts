import { openSync, readSync, realpathSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { collectEvidence, ekProfiles, encodeEvidence, type Reason, reasonFrom } from "../attest/index.ts";
import { openCabinet, type Policy } from "../policy/index.ts";
import {
  isOwnershipSecret,
  type MachineTpm,
  memoryMedium,
  openStoreFile,
  openTpm,
  Store,
  type StoreContent,
} from "../seal/index.ts";
import { CHECKPOINT_PURPOSE } from "./audit/checkpoint.ts";
import type { AuditLog } from "./audit/log.ts";
import { MachineAudit } from "./audit/machine-audit.ts";
import { openAudit } from "./audit/open.ts";
import { type AgentConfig, parseConfig } from "./config.ts";
import { answerControlLine, type ControlService, MAX_REQUEST } from "./control/control.ts";
import { VirtioPort } from "./control/port.ts";
import { createSealingService, type SealingService } from "./control/sealing.ts";
import { AgentError } from "./errors.ts";
import { addReasons, enter, type LaunchEnvironment, type LaunchRecord, newLaunchRecord } from "./launch/environment.ts";
import { type ReadInputs, readInputs } from "./launch/inputs.ts";
import { type Launched, launch } from "./launch/launch.ts";
import { MeasurementLog } from "./launch/measurement-log.ts";
import { settleServed } from "./launch/served.ts";
import { openNative } from "./native/index.ts";
import { evidenceSources, frameReport, violationCounts } from "./report.ts";
import { type Gathered, openSources, type Sources } from "./report-sources.ts";
import { serveScopes } from "./scopes/serve.ts";
import { openShim } from "./shim-client.ts";
import { watchDevices } from "./shims/device-watch.ts";
import { Domains } from "./shims/domains.ts";
import { IncidentLog } from "./shims/incidents.ts";
import { isOutageAgain, recover } from "./shims/recovery.ts";
import { openSpawner } from "./spawner-client.ts";
import { createStateVolume } from "./state-volume.ts";
import { visibleDevices } from "./visible-devices.ts";

/** The spawner leaves its socket here (SPAWNER.md). */
const SPAWNER_FD = 3;

/** Run the guest service: it launches once, then answers and serves until the machine stops. */
export async function runAgent(configPath: string): Promise<never> {
  const configBytes = new Uint8Array(await readFile(configPath));
  const config = parseConfig(configBytes);
  const native = openNative(config.programs);
  native.setNonDumpable();
  const spawner = openSpawner(native, SPAWNER_FD);
  const tpm = await openTpm({ tcti: config.tcti, nativeDirectory: config.programs });
  const { store, storeKeeps } = openStore(config);
  const inputs = await readCabinet(config, store.content);
  const record = newLaunchRecord();
  const log = new MeasurementLog(tpm, config.agentPcr);
  const audit = new MachineAudit();
  if (!config.stateVolume) audit.open(openAudit({ directory: config.auditLog, now: Date.now, anchor: null }));
  const volume = { tss: tpm.tss, spawner, native, auditLog: config.auditLog, audit, now: Date.now };
  let domains: Domains | null = null;

  const environment: LaunchEnvironment = {
    ...{ config, configBytes, tpm, tss: tpm.tss, store, log, spawner, inputs },
    now: Date.now,
    stateVolume: config.stateVolume ? createStateVolume(volume) : null,
    devices: await visibleDevices(config),
    closeFd: (fd) => native.closeFd(fd),
    realPath: (path) => realpathSync(path),
    openShim: (fd, onAttempt) => openShim(fd, native, { onAttempt }),
  };
  const gathered = { config, tpm, log, record, inputs: inputs.partial, audit, spawner, domains: () => domains };
  const sources = await openSources(gathered);
  await signCheckpoints(audit, tpm, sources);
  // The same signal a second time ends the process: by then the log is signed and anchored.
  process.once("SIGTERM", () => void audit.stop().finally(() => process.kill(process.pid, "SIGTERM")));
  const sealing = createSealingService(environment, { record, storeKeeps, identity: sources });
  const { ended } = await serveControl(config, controlService(gathered, sources, sealing));
  const launched = await launch(environment, record);
  console.error(`agent: ${describe(record)}`);
  const { policy } = inputs.partial;
  if (launched !== null && policy !== undefined) {
    domains = openDomains({ environment, record, policy, launched, audit, storeKeeps });
    await serveScopes({ config, policy, keys: launched.keys, domains, audit, native, spawner });
    await spawner.startWorkloads();
    for (const problem of await settleServed(environment, record)) {
      console.error(`agent: after the launch: ${problem.code} ${problem.item}: ${problem.got}`);
    }
  }
  if (launched === null && policy !== undefined) await recoverAgain(environment, record, policy, storeKeeps);
  return ended;
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
  for (const { code, got } of without) console.error(`agent: ${code}: ${got}`);
  await log.locked(async () => addReasons(record, without));
}

/** Without an attestation key the log goes on without checkpoints, and nothing of it is ever deleted. */
async function signCheckpoints(audit: MachineAudit, tpm: MachineTpm, sources: Sources): Promise<void> {
  try {
    audit.signWith(await tpm.certifiedKey(sources().ak, CHECKPOINT_PURPOSE));
  } catch (error) {
    console.error(`agent: no checkpoints: ${error instanceof Error ? error.message : "unknown failure"}`);
  }
}

interface Launch {
  readonly environment: LaunchEnvironment;
  readonly record: LaunchRecord;
  readonly policy: Policy;
  readonly launched: Launched;
  readonly audit: AuditLog;
  readonly storeKeeps: boolean;
}

/** Takes the shims of a good launch over, and keeps an eye on them and on the machine's devices. */
function openDomains({ environment, record, policy, launched, audit, storeKeeps }: Launch): Domains {
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

/** One line for the console; the report has the rest. */
function describe({ state }: LaunchRecord): string {
  if (!("reasons" in state)) return state.kind;
  return `${state.kind}: ${state.reasons.map(({ code, item }) => `${code} ${item}`).join("; ")}`;
}

/**
 * What the machine keeps from boot to boot. Without a usable store everything still works, but the imports are made again, and no reseal
 * is taken in. It is not made here: where a disk is missing, a file in its place would be gone with the boot.
 */
function openStore({ store: path }: AgentConfig): { readonly store: Store; readonly storeKeeps: boolean } {
  const forgetful = { store: Store.open(memoryMedium()).store, storeKeeps: false };
  if (path === null) return forgetful;
  try {
    const { store, opened } = Store.open(openStoreFile(path, { create: false }));
    if (opened.damaged) console.error("agent: store: no valid copy, begun again");
    return { store, storeKeeps: true };
  } catch (error) {
    console.error(`agent: ${error instanceof Error ? error.message : "store: unknown failure"}, going on without`);
    return forgetful;
  }
}

/** The cabinet is host-writable: it is read once, through the raw device, and nothing on it is mounted. */
async function readCabinet(config: AgentConfig, store: StoreContent): Promise<ReadInputs> {
  try {
    const device = openSync(config.cabinet, "r");
    const cabinet = openCabinet((offset, length) => {
      const bytes = new Uint8Array(length);
      return bytes.subarray(0, readSync(device, bytes, 0, length, offset));
    });
    return await readInputs(cabinet, store);
  } catch (error) {
    const reasons: Reason[] = [reasonFrom(error, "cabinet")];
    return { partial: {}, reasons };
  }
}

function controlService(
  { config, record, domains, audit }: Gathered & { readonly audit: MachineAudit },
  sources: Sources,
  sealing: SealingService,
): (report: VirtioPort) => ControlService {
  return (report) => ({
    sealing,
    status: async () => ({
      state: record.state.kind,
      reasons: "reasons" in record.state ? record.state.reasons : [...(domains()?.warnings ?? []), ...audit.warnings],
      // A list that cannot be read is a fact to show, not an end of `status`.
      devices: await visibleDevices(config).catch(() => null),
      phases: record.phases.map(({ kind, at }) => ({ phase: kind, at: Math.round(at) })),
      tokens: domains()?.status ?? [],
      violations: Object.fromEntries(violationCounts(record)),
    }),
    endorsement: async () => {
      const { ekCertificates, ekKind, ak } = sources();
      return { ekCertificates, ekProfile: ekProfiles[ekKind].name, akPublic: ak.publicArea, akName: ak.name };
    },
    activate: async (credentialBlob, encryptedSecret) => {
      const { tpm, ak, ekKind } = sources();
      const secret = await tpm.activateCredential(ak, credentialBlob, encryptedSecret, ekKind);
      if (!isOwnershipSecret(secret)) return secret;
      secret.fill(0);
      throw new AgentError("ERR_CONTROL_MALFORMED", "credential", {
        expected: "a challenge",
        got: "an ownership secret",
      });
    },
    audit: async (from, limit) => audit.read(from, limit),
    challenge: async (challenge) => {
      const { tpm, ak } = sources();
      // A takeover that is under way belongs into the report: between two shims a token has none.
      await domains()?.settled();
      const evidence = encodeEvidence(await collectEvidence(tpm, ak, evidenceSources(sources()), challenge));
      await report.write(frameReport(evidence));
      return evidence.length;
    },
  });
}

/** Answer the control port for ever, one request after the other. Starts before the launch does. */
async function serveControl(
  config: AgentConfig,
  service: (report: VirtioPort) => ControlService,
): Promise<{ ended: Promise<never> }> {
  const control = await VirtioPort.open(config.controlPort);
  const answers = service(await VirtioPort.open(config.reportPort));
  const loop = async (): Promise<never> => {
    const lines = control.lines(MAX_REQUEST);
    for (;;) {
      const { value: line } = await lines.next();
      if (line.length > 0) await control.write(new TextEncoder().encode(`${await answerControlLine(answers, line)}\n`));
    }
  };
  return { ended: loop() };
}
