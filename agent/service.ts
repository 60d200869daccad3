import { openSync, readSync, realpathSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  collectEvidence,
  ekProfiles,
  encodeEvidence,
  listPciDevices,
  type Reason,
  reasonFrom,
  type ShimClaim,
} from "../attest/index.ts";
import { openCabinet, sortedTokens } from "../policy/index.ts";
import {
  isOwnershipSecret,
  type MachineTpm,
  memoryMedium,
  openStoreFile,
  openTpm,
  readEpoch,
  Store,
  type StoreContent,
} from "../seal/index.ts";
import { type AuditLog, openAudit, readAudit } from "./audit.ts";
import { type AgentConfig, parseConfig } from "./config.ts";
import { answerControlLine, type ControlService, MAX_REQUEST } from "./control/control.ts";
import { VirtioPort } from "./control/port.ts";
import { createSealingService, type SealingService } from "./control/sealing.ts";
import { AgentError } from "./errors.ts";
import { type LaunchEnvironment, type LaunchRecord, newLaunchRecord, SHIM_ID } from "./launch/environment.ts";
import { type LaunchInputs, type ReadInputs, readInputs } from "./launch/inputs.ts";
import { launch } from "./launch/launch.ts";
import { MeasurementLog } from "./launch/measurement-log.ts";
import { settleServed } from "./launch/served.ts";
import { openNative } from "./native/index.ts";
import { endorsementKeyKind, evidenceSources, frameReport, type ReportSources } from "./report.ts";
import { serveScopes } from "./serve.ts";
import { openShim, type Shim } from "./shim-client.ts";
import { openSpawner, type Spawner } from "./spawner-client.ts";
import { createStateVolume, MachineAudit } from "./state-volume.ts";

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
  if (!config.stateVolume) audit.open(openAudit({ path: config.auditLog, now: Date.now, anchor: null }));
  const volume = { tss: tpm.tss, spawner, native, auditLog: config.auditLog, audit, now: Date.now };
  const shims: Shim[] = [];

  const environment: LaunchEnvironment = {
    ...{ config, configBytes, tpm, tss: tpm.tss, store, log, spawner, inputs },
    now: Date.now,
    stateVolume: config.stateVolume ? createStateVolume(volume) : null,
    devices: await visibleDevices(config),
    closeFd: (fd) => native.closeFd(fd),
    realPath: (path) => realpathSync(path),
    openShim: async (fd) => {
      const shim = await openShim(fd, native);
      shims.push(shim);
      return shim;
    },
  };
  const gathered = { config, tpm, log, record, inputs: inputs.partial, audit, spawner, shims };
  const sources = await gatherSources(gathered).then(always, unavailable);
  const sealing = createSealingService(environment, { record, storeKeeps, identity: sources });
  const { ended } = await serveControl(config, controlService(config, record, sources, sealing));
  const launched = await launch(environment, record);
  console.error(`agent: ${describe(record)}`);
  if (launched !== null && inputs.partial.policy !== undefined) {
    await serveScopes({ config, policy: inputs.partial.policy, launched, audit, native, spawner });
    await spawner.startWorkloads();
    for (const problem of await settleServed(environment, record)) {
      console.error(`agent: after the launch: ${problem.code} ${problem.item}: ${problem.got}`);
    }
  }
  return ended;
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

async function visibleDevices(config: AgentConfig): Promise<readonly string[]> {
  const addresses = await readdir(config.pciDevices);
  const read = (address: string, name: string) => readFile(join(config.pciDevices, address, name), "utf8");
  return listPciDevices(
    await Promise.all(
      addresses.map(async (address) => ({
        address,
        vendor: await read(address, "vendor"),
        device: await read(address, "device"),
      })),
    ),
  );
}

interface Gathered {
  readonly config: AgentConfig;
  readonly tpm: MachineTpm;
  readonly log: MeasurementLog;
  readonly record: LaunchRecord;
  readonly inputs: Partial<LaunchInputs>;
  readonly audit: AuditLog;
  readonly spawner: Spawner;
  readonly shims: readonly Shim[];
}

/** What reports are made of, asked for each time; throws where it cannot be had. */
type Sources = () => ReportSources;

const always =
  (sources: ReportSources): Sources =>
  () =>
    sources;

/** Without a usable endorsement key no report is made; the launch goes on, and says by name why it is refused. */
function unavailable(cause: unknown): Sources {
  const got = cause instanceof Error ? cause.message : "a failure";
  console.error(`agent: no reports: ${got}`);
  return () => {
    throw new AgentError("ERR_ENVIRONMENT", "attestation key", {
      expected: "an endorsement key that can be used",
      got,
      hint: "the launch's reasons (`status`) and `check` say what is in the way",
      cause,
    });
  };
}

async function gatherSources(gathered: Gathered): Promise<ReportSources> {
  const { config, tpm, log, record, inputs, audit, shims } = gathered;
  const certificates = await tpm.ekCertificates();
  const [credential] = inputs.credentials?.values() ?? [];
  const ekKind = endorsementKeyKind(credential?.sealed, certificates);
  return {
    ...{ tpm, log, record, inputs, audit },
    ak: await tpm.createAttestationKey(config.attestationKey),
    ekKind,
    ekName: (await tpm.endorsementKey(ekKind)).name,
    ekCertificates: certificates.map(({ der }) => der),
    firmwareLog: new Uint8Array(await readFile(config.firmwareLog)),
    attempts: () => shims[0]?.attempts() ?? {},
    shims: () => shimClaims(gathered),
    epoch: () => epochValue(tpm),
  };
}

async function epochValue({ tss }: MachineTpm): Promise<bigint | null> {
  const epoch = await readEpoch(tss);
  return epoch.kind === "present" ? epoch.value : null;
}

/** What the kernel says about the shim, through the spawner: nothing of it is the shim's own word. */
async function shimClaims({ spawner, shims, inputs }: Gathered): Promise<readonly ShimClaim[]> {
  const [shim] = shims;
  const [token] = inputs.policy === undefined ? [] : sortedTokens(inputs.policy);
  if (shim === undefined || token === undefined) return [];
  const process = await shimProcess(spawner);
  const role = process === null ? "ended" : "active";
  return [{ token: token.name, id: SHIM_ID, role, landlock: shim.ready.landlockAbi, process }];
}

async function shimProcess(spawner: Spawner): Promise<ShimClaim["process"]> {
  const status = await spawner.shimStatus(SHIM_ID);
  if (status.state !== "running") return null;
  return {
    uid: Number(status.fields.get("Uid")?.split("\t")[0] ?? 0),
    seccompFilters: Number(status.fields.get("Seccomp_filters") ?? 0),
    inheritedFilters: await inheritedFilters(),
    capabilities: status.fields.get("CapEff") ?? "unknown",
    namespaces: ownNamespaces(status.shimNamespaces, status.spawnerNamespaces),
  };
}

/** Of the spawner, which gives them to the agent as it does to a shim. */
async function inheritedFilters(): Promise<number> {
  const status = await readFile("/proc/self/status", "utf8");
  return Number(/^Seccomp_filters:\s*(\d+)$/m.exec(status)?.[1] ?? 0);
}

function ownNamespaces(shim: ReadonlyMap<string, string>, spawner: ReadonlyMap<string, string>): string[] {
  return [...shim]
    .filter(([kind, inode]) => spawner.get(kind) !== inode)
    .map(([kind, inode]) => `${kind}:[${inode}]`)
    .sort();
}

function controlService(
  config: AgentConfig,
  record: LaunchRecord,
  sources: Sources,
  sealing: SealingService,
): (report: VirtioPort) => ControlService {
  return (report) => ({
    sealing,
    status: async () => ({
      state: record.state.kind,
      reasons: "reasons" in record.state ? record.state.reasons : [],
      devices: await visibleDevices(config),
      phases: record.phases.map(({ kind, at }) => ({ phase: kind, at: Math.round(at) })),
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
    audit: async (from, limit) => readAudit(config.auditLog, from, limit),
    challenge: async (challenge) => {
      const { tpm, ak } = sources();
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
