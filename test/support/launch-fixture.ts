import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { createPublicKey, generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AgentConfig, parseConfig } from "../../agent/config.ts";
import { AgentError } from "../../agent/errors.ts";
import { type LaunchRecord, newLaunchRecord } from "../../agent/launch/environment.ts";
import { expectedLaunchEvents } from "../../agent/launch/expected-events.ts";
import { SHIM_PATH } from "../../agent/launch/files.ts";
import { type ReadInputs, readInputs } from "../../agent/launch/inputs.ts";
import { type Launched, launch } from "../../agent/launch/launch.ts";
import { MeasurementLog } from "../../agent/launch/measurement-log.ts";
import { openShim, type Shim } from "../../agent/shim-client.ts";
import type { Spawner } from "../../agent/spawner-client.ts";
import {
  type CelRecord,
  extendPcr,
  hashInBank,
  type LaunchEvent,
  launchEventDigests,
  measureClosure,
  modulePolicy,
  type PcrBank,
  predictAgentPcr,
  type Tpm,
} from "../../attest/index.ts";
import {
  AGENT_PCR,
  concatBytes,
  encodeAnchors,
  encodeBundle,
  encodeCabinet,
  equalBytes,
  openCabinet,
  type Policy,
  parsePolicy,
  type Release,
  type SlotName,
  sha256,
  sha256Hex,
  toHex,
  utf8,
  verifyRelease,
} from "../../policy/index.ts";
import { openTpm, type ReleaseDraft, sealOffline, type UnsealAnswer, unsealRequest } from "../../seal/index.ts";
import { verifySealedPackage } from "../../seal/package.ts";
import { type DemoToken, makeDemoToken } from "../../vm-images/token/token.ts";
import { logEvent, logHeader } from "./firmware-log-writer.ts";
import { createSealKeys, readEkCertificate, type SealKeys, signedRelease, tryUnseal } from "./seal-fixture.ts";
import { NATIVE_DIRECTORY, native, SOFTHSM, writeHostProfile } from "./shim-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "./swtpm.ts";
import { type BusCommand, type BusFault, openTpmBus, type TpmBus } from "./tpm-bus.ts";

/** Long and odd, so that a search finds nothing else. */
export const LAUNCH_PIN = "launch-pin-8261-quillwort";
export const DEVICES: readonly string[] = ["1af4:1041", "1af4:1042"];
const DAY = 86_400_000;

/** What the firmware of this test machine measured: PCR and data of each event. */
const FIRMWARE: readonly (readonly [number, Uint8Array])[] = [
  [4, utf8("unified kernel image")],
  [9, utf8("initrd")],
  [11, utf8("sections")],
];
/** The event log that explains `FIRMWARE`. */
export const FIRMWARE_LOG: Uint8Array = concatBytes(
  logHeader(),
  ...FIRMWARE.map(([pcr, data]) => logEvent(pcr, 0xd, data)),
);

/** A policy document in which a test may change anything. */
export type PolicyDraft = { -readonly [K in keyof Policy]: Policy[K] };

export interface Provisioning {
  readonly policy?: (draft: PolicyDraft) => void;
  readonly pin?: string;
  /** What the PIN is sealed for; by default the token's own serial number. */
  readonly tokenSerial?: string;
  readonly draft?: (draft: ReleaseDraft) => ReleaseDraft;
  /** DER of the endorsement key to seal to; by default this TPM's. */
  readonly ekCertificate?: Uint8Array;
  readonly config?: Partial<AgentConfig>;
}

/** Everything an operator makes offline for one machine, and what the launch on it should measure. */
export interface Provisioned {
  readonly slots: ReadonlyMap<SlotName, Uint8Array>;
  readonly configBytes: Uint8Array;
  readonly events: readonly LaunchEvent[];
  readonly release: Release;
  /** The unsealer's request: not secret, so an attacker has it too. */
  readonly request: Uint8Array;
}

export type ShimStep = "open" | "probe" | "load" | "login" | "keys" | "sign" | "arm";
export type SpawnerStep = "prepareShim" | "startShim";

export interface BootOptions {
  readonly slots?: (slots: Map<SlotName, Uint8Array>) => void;
  /** After the slots: bytes of the whole cabinet, to damage. */
  readonly cabinet?: (bytes: Uint8Array) => Uint8Array;
  readonly configBytes?: Uint8Array;
  readonly devices?: readonly string[];
  /** Instead of the bench's directory of programs. */
  readonly programs?: string;
  /** Extended before the agent starts. */
  readonly extend?: readonly (readonly [pcr: number, data: Uint8Array])[];
  readonly prepare?: () => Promise<unknown>;
  readonly fault?: (command: BusCommand) => BusFault;
  /** The shim process is killed before this request. */
  readonly killShimAt?: ShimStep;
  readonly spawner?: (real: Spawner) => Partial<Spawner>;
  readonly tpm?: (real: Tpm) => Tpm;
  readonly shimTimeoutMs?: number;
  /** Called when everything is open and the launch has not begun. */
  readonly beforeLaunch?: (boot: Omit<Boot, "launched" | "failure">) => Promise<void>;
}

export interface Boot extends AsyncDisposable {
  readonly launched: Launched | null;
  /** What the launch rejected with; null when it returned. */
  readonly failure: unknown;
  readonly record: LaunchRecord;
  readonly log: MeasurementLog;
  readonly tpm: Tpm;
  readonly inputs: ReadInputs;
  readonly provisioned: Provisioned;
  /** TPM commands since the launch began. */
  readonly commands: readonly BusCommand[];
  /** Requests to the spawner and the shim, in order. */
  readonly calls: readonly string[];
  /** Reasons given to the spawner's cap and reboot. */
  readonly capAsked: readonly string[];
  /** Bytes that are still in the PIN pipe. */
  pinLeft(): Uint8Array;
}

export interface LaunchBench extends AsyncDisposable {
  readonly directory: string;
  readonly programs: string;
  readonly token: DemoToken;
  readonly keys: SealKeys;
  readonly bus: TpmBus;
  readonly machine: SoftwareTpm;
  provision(changes?: Provisioning): Promise<Provisioned>;
  /** A power cycle of the TPM and one launch. */
  boot(provisioned: Provisioned, options?: BootOptions): Promise<Boot>;
  /** A power cycle, and what the firmware measures; no agent. */
  powerOn(): Promise<void>;
  agentPcr(): Promise<Readonly<Record<PcrBank, Uint8Array>>>;
  /** An attacker with the TPM after the launch: extends all published good digests again and runs the real unsealer. */
  attack(provisioned: Provisioned): Promise<{ answer: UnsealAnswer; received: Uint8Array }>;
  /** Puts another key into the token, as files; see `TokenKey`. */
  addKey(key: TokenKey): Uint8Array;
}

export interface TokenKey {
  readonly label: string;
  readonly id: string;
  /** `extractable`: made in the token, but may leave it. `imported`: came from outside, the same key for every id. */
  readonly kind: "extractable" | "imported";
}

export async function openLaunchBench({ banks }: { banks?: string } = {}): Promise<LaunchBench> {
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-launch-"));
  chmodSync(directory, 0o755);
  const machine = await startSwtpm(banks === undefined ? {} : { banks });
  const bus = await openTpmBus(machine);
  const token = await makeDemoToken(directory, "launch-bench", utf8(LAUNCH_PIN));
  const ekCertificate = await readEkCertificate(machine, "p384");
  const keys = await createSealKeys();
  const programs = makePrograms(directory);
  const bench = { directory, machine, bus, token, keys, programs, ekCertificate };
  return {
    ...bench,
    provision: (changes = {}) => provision(bench, changes),
    boot: (provisioned, options = {}) => boot(bench, provisioned, options),
    powerOn: () => powerOn(bench, []),
    agentPcr: () => readAgentPcr(bus),
    attack: (provisioned) => attack(bus, provisioned),
    addKey: (key) => addKey(directory, key),
    [Symbol.asyncDispose]: async () => {
      await bus[Symbol.asyncDispose]();
      await machine.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

type Tools = Pick<LaunchBench, "directory" | "machine" | "bus" | "token" | "keys" | "programs"> & {
  readonly ekCertificate: Uint8Array;
};

const softhsmConfig = (directory: string) => join(directory, "softhsm2-host.conf");

/** Shim and unsealer as they were built, and the local profile with this machine's paths. */
function makePrograms(directory: string): string {
  const programs = join(directory, "programs");
  mkdirSync(programs);
  for (const name of ["shim", "unsealer"]) copyFileSync(join(NATIVE_DIRECTORY, name), join(programs, name));
  const profile = writeHostProfile(
    { directory, remove: () => undefined },
    { environment: {}, tokens: join(directory, "tokens") },
  );
  renameSync(profile, join(programs, "local.profile"));
  return programs;
}

async function provision(bench: Tools, changes: Provisioning): Promise<Provisioned> {
  const configBytes = encodeConfig(bench, changes.config ?? {});
  const module: [string, Uint8Array][] = [
    [SOFTHSM, read(realpathSync(SOFTHSM))],
    [softhsmConfig(bench.directory), read(softhsmConfig(bench.directory))],
  ];
  const draft = policyDraft(bench);
  changes.policy?.(draft);
  const policyBytes = utf8(JSON.stringify(draft));
  const policy = parsePolicy(policyBytes);
  const anchorsBytes = encodeAnchors(bench.keys.anchors);
  const documents = { config: parseConfig(configBytes), configBytes, anchorsBytes, policy, policyBytes };
  const events = expectedLaunchEvents(documents, sha256(read(join(bench.programs, "shim"))));
  const releaseBytes = await signedRelease(bench.keys, (changes.draft ?? ((same) => same))(releaseDraft(events)));
  const sealed = await sealOffline({
    ekCertificate: changes.ekCertificate ?? bench.ekCertificate,
    pin: utf8(changes.pin ?? LAUNCH_PIN),
    rootKeyPem: bench.keys.root.spkiPem,
    name: "hsm-pin",
    generation: 1,
    tokenSerial: changes.tokenSerial ?? bench.token.serial,
    operator: bench.keys.operator,
  });
  const release = await verifyRelease(releaseBytes, bench.keys.root.spkiPem, insideOf(releaseBytes));
  const request = unsealRequest(await verifySealedPackage(sealed, bench.keys.anchors), release, bench.keys.anchors);
  return {
    configBytes,
    events,
    release,
    request,
    slots: new Map<SlotName, Uint8Array>([
      ["module", encodeBundle(module)],
      ["policy", policyBytes],
      ["anchors", anchorsBytes],
      ["release", releaseBytes],
      ["sealed", sealed],
      ["machine", utf8('{"name":"bench-vm"}')],
    ]),
  };
}

/** A time at which the release is valid, also for one that has expired. */
function insideOf(releaseBytes: Uint8Array): Date {
  const { payload } = JSON.parse(new TextDecoder().decode(releaseBytes)) as { payload: string };
  return new Date((JSON.parse(Buffer.from(payload, "base64").toString()) as { notBefore: string }).notBefore);
}

function encodeConfig({ programs, bus, directory }: Tools, changes: Partial<AgentConfig>): Uint8Array {
  const config: AgentConfig = {
    version: 1,
    agentPcr: AGENT_PCR,
    tcti: bus.tcti("unsealer"),
    cabinet: join(directory, "cabinet"),
    programs,
    scopes: join(directory, "scopes"),
    auditLog: join(directory, "audit.log"),
    firmwareLog: join(directory, "firmware-event-log"),
    pciDevices: join(directory, "pci"),
    controlPort: join(directory, "control"),
    reportPort: join(directory, "report"),
    ...changes,
  };
  return utf8(`${JSON.stringify(config, null, 2)}\n`);
}

function policyDraft({ directory, programs, token }: Tools): PolicyDraft {
  const pin = measureClosure({
    entry: SOFTHSM,
    executable: SHIM_PATH,
    readFile: (path) => readIfThere(path === SHIM_PATH ? join(programs, "shim") : path),
    realPath: (path) => (path === SHIM_PATH ? path : realpathSync(path)),
  });
  const { [SHIM_PATH]: _shim, ...closure } = pin.closure;
  const config = softhsmConfig(directory);
  const spki = (name: string): `sha256:${string}` => `sha256:${sha256Hex(token.keys[name] ?? new Uint8Array())}`;
  return {
    version: 1,
    serial: 1,
    owner: "bench",
    reviewBy: "2027-11-01",
    module: modulePolicy({ ...pin, closure }, { [config]: sha256Hex(read(config)) }, { SOFTHSM2_CONF: config }),
    profile: { name: "local", sha256: sha256Hex(read(join(programs, "local.profile"))) },
    devices: [...DEVICES],
    writable: [join(directory, "tokens")],
    connect: [],
    spares: 0,
    token: { label: token.label, serial: token.serial },
    keys: {
      "release-ec": { spki: spki("release-ec"), does: "sign" },
      "document-rsa": { spki: spki("document-rsa"), does: "sign" },
    },
    callers: { signer: { uid: 2001, exe: [`sha256:${"5e".repeat(32)}`] } },
    scopes: [
      {
        name: "release-signing",
        caller: "signer",
        key: "release-ec",
        mechanisms: [{ type: "CKM_ECDSA", digest: "sha256" }],
        audit: "written",
      },
    ],
  };
}

function releaseDraft(events: readonly LaunchEvent[]): ReleaseDraft {
  const agent = predictAgentPcr(events);
  const inBank = (bank: PcrBank) => ({ ...bootPcrs(bank), [AGENT_PCR]: toHex(agent[bank]) });
  return {
    name: "bench-1",
    image: { id: "ab".repeat(32), variant: "demo" },
    epoch: 1,
    notBefore: new Date(Date.now() - DAY).toISOString(),
    notAfter: new Date(Date.now() + DAY).toISOString(),
    pcrs: { sha256: inBank("sha256"), sha384: inBank("sha384") },
    events: events.map((event) => ({ ...event, sha256: toHex(event.sha256) })) as ReleaseDraft["events"],
  };
}

function bootPcrs(bank: PcrBank): Record<string, string> {
  const after = (index: number) =>
    FIRMWARE.filter(([pcr]) => pcr === index).reduce<Uint8Array>(
      (value, [, data]) => extendPcr(bank, value, hashInBank(bank, data)),
      new Uint8Array(bank === "sha256" ? 32 : 48),
    );
  return Object.fromEntries([4, 9, 11, 12].map((index) => [index, toHex(after(index))]));
}

async function boot(bench: Tools, provisioned: Provisioned, options: BootOptions): Promise<Boot> {
  const { bus } = bench;
  await powerOn(bench, options.extend ?? []);
  await options.prepare?.();
  const slots = new Map(provisioned.slots);
  options.slots?.(slots);
  const cabinet = (options.cabinet ?? ((same) => same))(encodeCabinet(slots));
  const inputs = await readCabinetInputs(cabinet);
  const configBytes = options.configBytes ?? provisioned.configBytes;
  const config = { ...parseConfig(configBytes), ...(options.programs ? { programs: options.programs } : {}) };
  const real = await openTpm({ tcti: bus.tcti("agent"), nativeDirectory: NATIVE_DIRECTORY });
  const tpm = options.tpm?.(real) ?? real;
  const log = new MeasurementLog(tpm, AGENT_PCR);
  const record = newLaunchRecord();
  const benchSpawner = openBenchSpawner({ cabinet, programs: config.programs, bus });
  const { spawner, calls, capAsked, pinLeft } = benchSpawner;
  const shared = {
    ...{ record, log, tpm, inputs, provisioned, calls, capAsked, pinLeft },
    get commands() {
      return bus.commands;
    },
    [Symbol.asyncDispose]: async () => {
      await benchSpawner.close();
      await real.close().catch(() => undefined); // a bus fault may have left it without an answer
    },
  };
  await options.beforeLaunch?.(shared);
  bus.arm(options.fault);
  try {
    const launched = await launch(
      {
        ...{ config, configBytes, tpm, log, inputs },
        spawner: { ...spawner, ...options.spawner?.(spawner) },
        devices: options.devices ?? DEVICES,
        closeFd: (fd) => closeSync(fd),
        realPath: (path) => realpathSync(path),
        openShim: (fd) => openWatchedShim(fd, benchSpawner, options),
      },
      record,
    );
    return { ...shared, commands: bus.commands, launched, failure: null };
  } catch (failure) {
    return { ...shared, commands: bus.commands, launched: null, failure };
  } finally {
    bus.arm();
  }
}

async function powerOn({ bus, machine }: Tools, extra: NonNullable<BootOptions["extend"]>): Promise<void> {
  await machine.restart();
  bus.arm();
  await withTpm(bus, async (tpm) => {
    for (const [pcr, data] of [...FIRMWARE, ...extra]) {
      await tpm.pcrExtend(pcr, { sha256: hashInBank("sha256", data), sha384: hashInBank("sha384", data) });
    }
  });
}

async function readCabinetInputs(cabinet: Uint8Array): Promise<ReadInputs> {
  return readInputs(openCabinet((offset, length) => cabinet.subarray(offset, offset + length)));
}

/** Every request to the shim goes on the list; before the chosen one the process is really killed. */
async function openWatchedShim(fd: number, spawner: BenchSpawner, options: BootOptions): Promise<Shim> {
  const step = async (name: ShimStep) => {
    spawner.calls.push(name);
    if (options.killShimAt === name) await spawner.killShim();
  };
  await step("open");
  const shim = await openShim(fd, native(), { timeoutMs: options.shimTimeoutMs ?? 20_000 });
  const watched = <K extends Exclude<ShimStep, "open">>(name: K): Shim[K] =>
    (async (...args: unknown[]) => {
      await step(name);
      // the arguments are passed on as they came, to the function of the same name
      return (shim[name] as (...given: unknown[]) => Promise<unknown>)(...args);
    }) as Shim[K];
  return {
    ...shim,
    ...{ probe: watched("probe"), load: watched("load"), login: watched("login"), keys: watched("keys") },
    ...{ sign: watched("sign"), arm: watched("arm") },
  };
}

interface BenchSpawner {
  readonly spawner: Spawner;
  readonly calls: string[];
  readonly capAsked: string[];
  pinLeft(): Uint8Array;
  killShim(): Promise<void>;
  close(): Promise<void>;
}

/**
 * Hashes what it is asked to copy and starts the real shim, under its real filters, on this machine's own files. The private
 * root and the request table are the real spawner's, which has tests of its own.
 */
function openBenchSpawner(setup: { cabinet: Uint8Array; programs: string; bus: TpmBus }): BenchSpawner {
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-pin-"));
  const calls: string[] = [];
  const capAsked: string[] = [];
  const state: { child: ChildProcess | null; pipe: number | null; profile: string } = {
    ...{ child: null, pipe: null, profile: "" },
  };
  const killShim = async () => {
    const { child } = state;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  };
  const spawner: Spawner = {
    prepareShim: async (_id, files) => {
      calls.push("prepareShim");
      return files.map(({ path, source }) => {
        const { cabinet } = setup;
        const bytes =
          source.kind === "root" ? read(source.path) : cabinet.subarray(source.offset, source.offset + source.length);
        if (path === "/profile") state.profile = sha256Hex(bytes);
        return { sha256: sha256(bytes), size: bytes.length };
      });
    },
    startShim: async ({ profileSha256, environment }) => {
      calls.push("startShim");
      if (toHex(profileSha256) !== state.profile) throw new AgentError("ERR_SPAWNER", "spawner refused: profile");
      const [ours, theirs] = native().socketPair("stream");
      const fifo = join(directory, "pin");
      execFileSync("mkfifo", [fifo]);
      state.pipe = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK); // shows what nobody took
      const pin = openSync(fifo, constants.O_WRONLY);
      const readEnd = openSync(fifo, constants.O_RDONLY);
      const child = spawn(join(setup.programs, "shim"), [join(setup.programs, "local.profile")], {
        env: Object.fromEntries(environment.map((entry) => entry.split(/=(.*)/s).slice(0, 2))),
        cwd: "/",
        stdio: ["ignore", "ignore", "ignore", theirs, readEnd],
      });
      state.child = child;
      native().closeFd(theirs);
      closeSync(readEnd);
      return { pid: child.pid ?? -1, fds: { request: ours, pin } };
    },
    peerExe: () => Promise.reject(new AgentError("ERR_SPAWNER", "not on the bench")),
    shimStatus: () => Promise.reject(new AgentError("ERR_SPAWNER", "not on the bench")),
    startWorkloads: () => Promise.reject(new AgentError("ERR_SPAWNER", "not on the bench")),
    openState: () => Promise.reject(new AgentError("ERR_SPAWNER", "not on the bench")),
    // As the real one, on a connection of its own.
    capAndReboot: async (reason) => {
      capAsked.push(reason);
      setup.bus.arm();
      const lost = utf8("ironclaw: agent lost");
      await withTpm(setup.bus, (tpm) =>
        tpm.pcrExtend(AGENT_PCR, { sha256: hashInBank("sha256", lost), sha384: hashInBank("sha384", lost) }),
      );
    },
  };
  return {
    ...{ spawner, calls, capAsked, killShim },
    pinLeft: () => (state.pipe === null ? new Uint8Array() : drain(state.pipe)),
    close: async () => {
      await killShim();
      if (state.pipe !== null) closeSync(state.pipe);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function drain(fd: number): Uint8Array {
  const buffer = new Uint8Array(4096);
  try {
    return buffer.slice(0, readSync(fd, buffer));
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EAGAIN") return new Uint8Array();
    throw error;
  }
}

export async function withTpm<T>(bus: TpmBus, use: (tpm: Tpm) => Promise<T>): Promise<T> {
  await using tpm = await openTpm({ tcti: bus.tcti("other"), nativeDirectory: NATIVE_DIRECTORY });
  return await use(tpm);
}

async function readAgentPcr(bus: TpmBus): Promise<Readonly<Record<PcrBank, Uint8Array>>> {
  return withTpm(bus, async (tpm) => {
    const value = async (bank: PcrBank) => (await tpm.pcrRead(bank, [AGENT_PCR])).get(AGENT_PCR) ?? new Uint8Array();
    return { sha256: await value("sha256"), sha384: await value("sha384") };
  });
}

async function attack(bus: TpmBus, { events, request }: Provisioned) {
  await withTpm(bus, async (tpm) => {
    for (const event of events) await tpm.pcrExtend(AGENT_PCR, launchEventDigests(event));
  });
  await bus.flushClient("unsealer");
  const { answer, received } = await tryUnseal({ tcti: bus.tcti("other"), request });
  return { answer, received: received[0] ?? new Uint8Array() };
}

/** Whether somebody who may extend the agent PCR can still bring it to a release's value by extending the rest of its events. */
export function withinReach(present: Uint8Array, bank: PcrBank, events: readonly LaunchEvent[]): boolean {
  const good = predictAgentPcr(events)[bank];
  return [...events, null].some((_, from) => {
    const rest = events.slice(from).map((event) => launchEventDigests(event)[bank]);
    return equalBytes(
      rest.reduce((pcr, digest) => extendPcr(bank, pcr, digest), present),
      good,
    );
  });
}

/** The events of a log, without the registers they went to. */
export function eventsOf(records: readonly CelRecord[]): readonly LaunchEvent[] {
  return records.map(({ event }) => event);
}

const imported = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;

function addKey(directory: string, { label, id, kind }: TokenKey): Uint8Array {
  const options = {
    env: { ...process.env, SOFTHSM2_CONF: softhsmConfig(directory) },
    stdio: "pipe" as const,
  };
  const tool = ["--module", SOFTHSM, "--login", "--pin", LAUNCH_PIN, "--label", label, "--id", id];
  const at = (name: string) => join(directory, `${id}-${name}.der`);
  if (kind === "extractable") {
    execFileSync("pkcs11-tool", [...tool, "--keypairgen", "--key-type", "EC:prime256v1", "--extractable"], options);
    execFileSync("pkcs11-tool", [...tool, "--read-object", "--type", "pubkey", "-o", at("public")], options);
    return new Uint8Array(
      createPublicKey({ key: readFileSync(at("public")), format: "der", type: "spki" }).export({
        format: "der",
        type: "spki",
      }),
    );
  }
  const spki = createPublicKey(imported.export({ format: "pem", type: "pkcs8" })).export({
    format: "der",
    type: "spki",
  });
  writeFileSync(at("private"), imported.export({ format: "der", type: "pkcs8" }));
  writeFileSync(at("public"), spki);
  const flags = ["--usage-sign", "--sensitive"];
  execFileSync("pkcs11-tool", [...tool, "--write-object", at("private"), "--type", "privkey", ...flags], options);
  execFileSync("pkcs11-tool", [...tool, "--write-object", at("public"), "--type", "pubkey"], options);
  return new Uint8Array(spki);
}

function read(path: string): Uint8Array {
  return new Uint8Array(readFileSync(path));
}

function readIfThere(path: string): Uint8Array | null {
  try {
    return read(path);
  } catch {
    return null;
  }
}
