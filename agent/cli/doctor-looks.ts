import { hostname, uptime } from "node:os";
import { join } from "node:path";
import { parsePolicy } from "../../policy/index.ts";
import {
  defaultNativeDirectory,
  type MachineTpm,
  memoryMedium,
  openStoreFile,
  openTpm,
  readEpoch,
  Store,
  type StoreContent,
} from "../../seal/index.ts";
import {
  hostExposure,
  namesPlaces,
  readHostConfiguration,
  sysfsDevices,
  unknownDevices,
} from "../../vm-images/host/index.ts";
import { parseConfig } from "../config.ts";
import {
  agentPcrFinding,
  agentProcess,
  agentsFiles,
  type CredentialCheck,
  checkCredential,
  clockFinding,
  diskFindings,
  documentFindings,
  eventLogFindings,
  examine,
  type Files,
  type Finding,
  fail,
  kernelFindings,
  type Look,
  latestRecord,
  ok,
  openFiles,
  otherExtenders,
  permissionFindings,
  probeKernel,
  type ReadLog,
  readFirmwareLog,
  sealedFindings,
  tpmFindings,
  warn,
  weakerFindings,
} from "../doctor/index.ts";
import { withCabinet } from "../launch/cabinet.ts";
import { type ReadInputs, readInputs } from "../launch/inputs.ts";
import type { CommandInput } from "./command.ts";
import { readInput, readText } from "./files.ts";

const DEFAULT_TCTI = "device:/dev/tpmrm0";
const FIRMWARE_LOG = "/sys/kernel/security/tpm0/binary_bios_measurements";
const PROBE = join(defaultNativeDirectory(), "kernel-probe");

/** This system, before anything of ours is on it. */
export function systemLooks(): readonly Look[] {
  const files = openFiles();
  const firmware = readFirmwareLog(files, FIRMWARE_LOG);
  return [
    withTpm(DEFAULT_TCTI, (tpm) => [...tpmLooks(tpm), eventLogLook(tpm, files, firmware)]),
    { id: "agent-pcr-others", run: () => [otherExtenders(files, firmware.log, null)] },
    { id: "landlock", run: async () => kernelFindings(files, await probeKernel(PROBE), null) },
    { id: "root-not-verified", run: () => weakerFindings(files) },
    { id: "clock", run: () => [clockFinding(files, Date.now(), 0)] },
  ];
}

/** This system with an agent's configuration, whether the agent runs or not. */
export async function configLooks(path: string): Promise<readonly Look[]> {
  const files = openFiles();
  const config = parseConfig(await readInput(path, "configuration"));
  // A launch puts the kernel's own where the configuration says; before one there is only the kernel's.
  const firmware = readFirmwareLog(files, files.exists(config.firmwareLog) ? config.firmwareLog : FIRMWARE_LOG);
  const documents = documentsOf(config.cabinet, config.store ?? undefined);
  const lacks = async () => (await documents().catch(() => null))?.inputs.partial.policy?.sandbox.lacks ?? null;
  const agent = agentProcess(files, path);
  const seen = agentsFiles(files, agent);
  const own = join(config.programs, "kernel-probe");
  const probe = () => probeKernel(files.exists(own) ? own : PROBE);
  return [
    { id: "configuration", run: () => [ok("configuration", `${path}: every field`)] },
    withTpm(config.tcti, (tpm) => [
      ...tpmLooks(tpm, { agent }),
      eventLogLook(tpm, files, firmware),
      ...documentLooks(documents, tpm),
    ]),
    { id: "agent-pcr-others", run: () => [otherExtenders(files, firmware.log, agent)] },
    { id: "landlock", run: async () => kernelFindings(files, await probe(), await lacks()) },
    { id: "root-not-verified", run: () => weakerFindings(files) },
    { id: "clock", run: () => [clockFinding(files, Date.now(), latestRecord(seen, config.auditLog))] },
    { id: "disk", run: () => diskFindings(seen, config) },
    { id: "permissions", run: () => permissionFindings(files, config, path) },
  ];
}

/** A TPM and a cabinet on the host that prepares a machine: nothing of this host itself. */
export function preparedLooks(input: CommandInput): readonly Look[] {
  const [tcti, cabinet] = [input.optional("tcti"), input.optional("cabinet")];
  const documents = cabinet === undefined ? null : documentsOf(cabinet, input.optional("store"));
  if (tcti === undefined) return documents === null ? [] : documentLooks(documents, null);
  return [
    withTpm(tcti, (tpm) => [
      ...tpmLooks(tpm, { up: null }),
      ...(documents === null ? [] : documentLooks(documents, tpm)),
    ]),
  ];
}

interface HostFile {
  readonly path: string;
  /** Without one no device counts as listed. */
  readonly policy: string | undefined;
  /** Of another host: what is at a place there, nobody here knows. */
  readonly elsewhere: boolean;
}

export function hostLooks(file: HostFile): readonly Look[] {
  return [{ id: "host", run: () => hostFindings(file) }];
}

async function hostFindings({ path, policy: policyPath, elsewhere }: HostFile): Promise<readonly Finding[]> {
  const machine = readHostConfiguration(await readText(path, "host configuration"));
  const policy = policyPath === undefined ? { devices: [] } : parsePolicy(await readInput(policyPath, "policy"));
  const exposed = hostExposure(machine, policy, elsewhere ? unknownDevices : sysfsDevices());
  const found = exposed.map(({ id, level, item, expected, got, hint }) =>
    (level === "fail" ? fail : warn)("host", { expected, got: `${id}: ${item}: ${got}`, fix: hint }),
  );
  const places = namesPlaces(machine) && !elsewhere ? [ok("host", judgedHere())] : [];
  return [...places, ...(found.length === 0 ? [ok("host", "nothing beyond the policy")] : found)];
}

function judgedHere(): string {
  return `devices that are named by place were looked up in /sys of this host, ${hostname()}: for a file of another host, --elsewhere`;
}

/** One connection for all of them, because a software TPM serves one at a time; without a TPM, one line says so. */
function withTpm(tcti: string, looks: (tpm: MachineTpm) => readonly Look[]): Look {
  return {
    id: "tpm",
    run: async () => {
      await using tpm = await openTpm({ tcti });
      return await examine(looks(tpm));
    },
  };
}

interface TpmPlace {
  /** Process of the agent, which alone has a log to compare with; null when it does not run. */
  readonly agent?: number | null;
  /** Seconds since the machine of this TPM started; null for another machine's. */
  readonly up?: number | null;
}

function tpmLooks(tpm: MachineTpm, { agent = null, up = uptime() }: TpmPlace = {}): readonly Look[] {
  const own = {
    ...{ expected: "the agent's own log to compare with", got: `an agent that runs, process ${agent}` },
    fix: "ask it: `ironclaw doctor --machine DIR`, on the host of its control port",
  };
  const proof = async () => (agent === null ? agentPcrFinding(tpm.tss, null, up) : warn("agent-pcr", own));
  return [
    { id: "tpm", run: () => tpmFindings(tpm, new Date()) },
    { id: "agent-pcr", run: async () => [await proof()] },
  ];
}

function eventLogLook(tpm: MachineTpm, files: Files, firmware: ReadLog): Look {
  return { id: "event-log", run: () => eventLogFindings(tpm, files, firmware) };
}

interface Documents {
  readonly inputs: ReadInputs;
  readonly store: StoreContent;
}

/** Read once, when the first look wants them. */
function documentsOf(cabinet: string, store: string | undefined): () => Promise<Documents> {
  let read: Promise<Documents> | null = null;
  return () => {
    read ??= readDocuments(cabinet, store);
    return read;
  };
}

async function readDocuments(path: string, storePath: string | undefined): Promise<Documents> {
  const store = storeOf(storePath);
  return { inputs: await withCabinet(path, (cabinet) => readInputs(cabinet, store)), store };
}

function storeOf(path: string | undefined): StoreContent {
  if (path === undefined) return Store.open(memoryMedium()).store.content;
  const medium = openStoreFile(path, { create: false });
  try {
    return Store.open(medium).store.content;
  } finally {
    medium.close();
  }
}

/** @param tpm without one nothing is known of its counter, nor whether it would unseal */
function documentLooks(documents: () => Promise<Documents>, tpm: MachineTpm | null): readonly Look[] {
  const now = new Date();
  const read = async () => {
    const epoch = tpm === null ? null : await epochOf(tpm);
    return documentFindings((await documents()).inputs, { epoch, now });
  };
  if (tpm === null) return [{ id: "cabinet", run: read }];
  return [
    { id: "cabinet", run: read },
    {
      id: "sealed",
      run: () =>
        documents().then(
          (found) => sealedOf(tpm, found, now),
          () => [],
        ),
    },
  ];
}

async function epochOf({ tss }: MachineTpm): Promise<bigint | null> {
  const epoch = await readEpoch(tss);
  return epoch.kind === "present" ? epoch.value : null;
}

/** Documents that cannot be read `cabinet` has said. */
async function sealedOf({ tss }: MachineTpm, { inputs, store }: Documents, now: Date): Promise<readonly Finding[]> {
  const { anchors, releases = [], credentials } = inputs.partial;
  if (anchors === undefined || credentials === undefined) return [];
  const checks: CredentialCheck[] = [];
  for (const credential of credentials.values())
    checks.push(await checkCredential(tss, credential, { anchors, releases, knownEkName: store.ekName, now }));
  return sealedFindings(checks);
}
