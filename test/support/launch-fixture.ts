import type { ChildProcess } from "node:child_process";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  renameSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseConfig } from "../../agent/config.ts";
import { type LaunchEnvironment, type LaunchRecord, newLaunchRecord } from "../../agent/launch/environment.ts";
import { type ReadInputs, readInputs } from "../../agent/launch/inputs.ts";
import { type Launched, launch } from "../../agent/launch/launch.ts";
import { MeasurementLog } from "../../agent/launch/measurement-log.ts";
import { enterServing, settleServed } from "../../agent/launch/served.ts";
import type { Spawner } from "../../agent/spawner-client.ts";
import {
  type CelRecord,
  extendPcr,
  hashInBank,
  type LaunchEvent,
  launchEventDigests,
  type PcrBank,
  predictAgentPcr,
  type Reason,
  type Tpm,
} from "../../attest/index.ts";
import { AGENT_PCR, encodeCabinet, equalBytes, openCabinet, type SlotName, utf8 } from "../../policy/index.ts";
import {
  importSealed,
  LOGIN_INDEX,
  type MachineTpm,
  openTpm,
  provisionEpoch,
  Store,
  type StoreMedium,
  type UnsealAnswer,
  unsealRequest,
  verifySealedPackage,
} from "../../seal/index.ts";
import { DEVICES, FIRMWARE, type Provisioned, type Provisioning, provision } from "./launch-documents.ts";
import { openBenchSpawner, openWatchedShim, type WatchOptions } from "./launch-spawner.ts";
import { addTokenKey, type BenchToken, openCountingToken, openSoftHsm, type TokenKey } from "./launch-token.ts";
import { createSealKeys, readEkCertificate, type SealKeys, tryUnseal } from "./seal-fixture.ts";
import { NATIVE_DIRECTORY, writeHostProfile } from "./shim-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "./swtpm.ts";
import { type BusCommand, type BusFault, openTpmBus, type TpmBus } from "./tpm-bus.ts";

export {
  afresh,
  bundle,
  DEVICES,
  FIRMWARE_LOG,
  type PolicyDraft,
  type Provisioned,
  type Provisioning,
} from "./launch-documents.ts";
export type { ShimStep, SpawnerStep } from "./launch-spawner.ts";
export { LAUNCH_PIN, type TokenKey } from "./launch-token.ts";

export interface BootOptions extends WatchOptions {
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
  readonly fault?: (command: BusCommand) => BusFault | Promise<BusFault>;
  readonly spawner?: (real: Spawner) => Partial<Spawner>;
  readonly tpm?: (real: Tpm) => Tpm;
  /** Instead of the machine's own. */
  readonly store?: StoreMedium;
  /** The boot before this one lost its agent. */
  readonly agentLoss?: LaunchEnvironment["agentLoss"];
  /** Milliseconds since 1970, instead of this machine's clock. */
  readonly now?: number;
  readonly stateVolume?: (tss: MachineTpm["tss"]) => LaunchEnvironment["stateVolume"];
  /** What only a launch that serves does afterwards. Default: done. */
  readonly settle?: boolean;
  /** Called when everything is open and the launch has not begun. */
  readonly beforeLaunch?: (boot: Omit<Boot, "launched" | "failure" | "settled">) => Promise<void>;
}

export interface Boot extends AsyncDisposable {
  readonly launched: Launched | null;
  /** What the launch rejected with; null when it returned. */
  readonly failure: unknown;
  /** What went wrong after it came to serve. */
  readonly settled: readonly Reason[];
  readonly record: LaunchRecord;
  readonly log: MeasurementLog;
  readonly tpm: MachineTpm;
  readonly store: Store;
  readonly inputs: ReadInputs;
  readonly provisioned: Provisioned;
  /** TPM commands since the launch began. */
  readonly commands: readonly BusCommand[];
  /** Requests to the spawner and the shim, in order. */
  readonly calls: readonly string[];
  /** Reasons given to the spawner's cap and reboot. */
  readonly capAsked: readonly string[];
  /** What nobody took from the credential channels. */
  channelLeft(): Uint8Array;
  readonly spawner: Spawner;
  processOf(id: number): ChildProcess | undefined;
}

export interface LaunchBench extends AsyncDisposable {
  readonly directory: string;
  readonly programs: string;
  readonly token: BenchToken;
  readonly keys: SealKeys;
  readonly bus: TpmBus;
  readonly machine: SoftwareTpm;
  /** DER of this TPM's P-384 endorsement key. */
  readonly ekCertificate: Uint8Array;
  provision(changes?: Provisioning): Promise<Provisioned>;
  /** A power cycle of the TPM and one launch. Documents of another machine begin without what the TPM remembers of log-ins. */
  boot(provisioned: Provisioned, options?: BootOptions): Promise<Boot>;
  /** A power cycle, and what the firmware measures; no agent. */
  powerOn(): Promise<void>;
  agentPcr(): Promise<Readonly<Record<PcrBank, Uint8Array>>>;
  /** An attacker with the TPM after the launch: extends all published good digests again and runs the real unsealer. */
  attack(provisioned: Provisioned, name?: string): Promise<{ answer: UnsealAnswer; received: Uint8Array }>;
  /** As if no log-in had ever been tried on this TPM. */
  forgetLogins(): Promise<void>;
  /** The TPM as its maker left it, at the next power cycle: no counter, no records, nothing imported. */
  renewTpm(): void;
  /** Puts another key into the token, as files; see `TokenKey`. */
  addKey(key: TokenKey): Uint8Array;
}

export interface BenchOptions {
  readonly banks?: string;
  /** Default: SoftHSM. */
  readonly token?: "softhsm" | "counting";
}

/** A machine without a virtual machine: software TPM, real unsealer, real shim. The TPM is as its maker left it. */
export async function openLaunchBench({ banks, token: kind }: BenchOptions = {}): Promise<LaunchBench> {
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-launch-"));
  chmodSync(directory, 0o755);
  const machine = await startSwtpm(banks === undefined ? {} : { banks });
  const bus = await openTpmBus(machine);
  const token = kind === "counting" ? openCountingToken(directory) : await openSoftHsm(directory);
  const ekCertificate = await readEkCertificate(machine, "p384");
  const keys = await createSealKeys();
  const programs = makePrograms(directory, token);
  const tools = { directory, machine, bus, token, keys, programs, ekCertificate };
  const [state, asMade] = [join(machine.directory, "state"), join(directory, "tpm-as-made")];
  cpSync(state, asMade, { recursive: true });
  let last: Provisioned["identity"] | null = null;
  return {
    ...tools,
    provision: (changes = {}) => provision(tools, changes),
    boot: async (provisioned, options = {}) => {
      const { identity } = provisioned;
      await powerOn(tools, options.extend ?? []);
      if (identity !== last) await forgetLogins(bus);
      last = identity;
      return boot(tools, provisioned, options);
    },
    powerOn: () => powerOn(tools, []),
    agentPcr: () => readAgentPcr(bus),
    attack: (provisioned, name = "hsm-pin") => attack(tools, provisioned, name),
    forgetLogins: () => forgetLogins(bus),
    renewTpm: () => cpSync(asMade, state, { recursive: true }),
    addKey: (key) => addTokenKey(directory, key),
    [Symbol.asyncDispose]: async () => {
      await bus[Symbol.asyncDispose]();
      await machine.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

type Tools = Pick<LaunchBench, "directory" | "machine" | "bus" | "token" | "keys" | "programs" | "ekCertificate">;

/** Shim and unsealer as they were built, and the local profile with this machine's paths. */
function makePrograms(directory: string, { environment, directory: tokens }: BenchToken): string {
  const programs = join(directory, "programs");
  mkdirSync(programs);
  for (const name of ["shim", "unsealer"]) copyFileSync(join(NATIVE_DIRECTORY, name), join(programs, name));
  const profile = writeHostProfile({ directory, remove: () => undefined }, { environment, tokens });
  renameSync(profile, join(programs, "local.profile"));
  return programs;
}

async function boot(bench: Tools, provisioned: Provisioned, options: BootOptions): Promise<Boot> {
  const { bus } = bench;
  await options.prepare?.();
  const slots = new Map(provisioned.slots);
  options.slots?.(slots);
  const cabinet = (options.cabinet ?? ((same) => same))(encodeCabinet(slots));
  const { store } = Store.open(options.store ?? provisioned.identity.store);
  const inputs = await readInputs(
    openCabinet((offset, length) => cabinet.subarray(offset, offset + length)),
    store.content,
  );
  const configBytes = options.configBytes ?? provisioned.configBytes;
  const config = { ...parseConfig(configBytes), ...(options.programs ? { programs: options.programs } : {}) };
  const tpm = await openTpm({ tcti: bus.tcti("agent"), nativeDirectory: NATIVE_DIRECTORY });
  const watched = options.tpm?.(tpm) ?? tpm;
  const log = new MeasurementLog(watched, AGENT_PCR);
  const record = newLaunchRecord();
  const benchSpawner = openBenchSpawner({ cabinet, programs: config.programs, cap: () => capAsSpawner(bus) });
  const { spawner, calls, capAsked, channelLeft } = benchSpawner;
  const shared = {
    ...{ record, log, tpm, store, inputs, provisioned, calls, capAsked, channelLeft },
    ...{ spawner, processOf: benchSpawner.processOf },
    get commands() {
      return bus.commands;
    },
    [Symbol.asyncDispose]: async () => {
      await benchSpawner.close();
      await tpm.close().catch(() => undefined); // a bus fault may have left it without an answer
    },
  };
  await options.beforeLaunch?.(shared);
  bus.arm(options.fault);
  const environment: LaunchEnvironment = {
    ...{ config, configBytes, tpm: watched, tss: tpm.tss, store, log, inputs },
    now: () => options.now ?? Date.now(),
    spawner: { ...spawner, ...options.spawner?.(spawner) },
    agentLoss: options.agentLoss ?? null,
    stateVolume: options.stateVolume?.(tpm.tss) ?? null,
    devices: options.devices ?? DEVICES,
    closeFd: (fd) => closeSync(fd),
    realPath: (path) => realpathSync(path),
    openShim: (fd, onAttempt) => openWatchedShim(fd, onAttempt, benchSpawner, options),
  };
  try {
    const launched = await launch(environment, record);
    if (launched !== null && inputs.partial.policy) await enterServing(environment, record, inputs.partial.policy);
    const commands = [...bus.commands];
    const settles = launched !== null && options.settle !== false;
    const settled = settles ? await settleServed(environment, record) : [];
    return { ...shared, commands, launched, failure: null, settled };
  } catch (failure) {
    return { ...shared, commands: bus.commands, launched: null, failure, settled: [] };
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

/** What the real spawner extends when the agent is lost. */
export async function capAsSpawner(bus: TpmBus): Promise<void> {
  bus.arm();
  const lost = utf8("ironclaw: agent lost");
  await withTpm(bus, (tpm) =>
    tpm.pcrExtend(AGENT_PCR, { sha256: hashInBank("sha256", lost), sha384: hashInBank("sha384", lost) }),
  );
}

export async function withTpm<T>(bus: TpmBus, use: (tpm: MachineTpm) => Promise<T>): Promise<T> {
  await using tpm = await openTpm({ tcti: bus.tcti("other"), nativeDirectory: NATIVE_DIRECTORY });
  return await use(tpm);
}

async function forgetLogins(bus: TpmBus): Promise<void> {
  await withTpm(bus, async ({ tss }) => {
    if (!(await tss.handles(LOGIN_INDEX)).includes(LOGIN_INDEX)) return;
    await using index = await tss.trFromTpmPublic(LOGIN_INDEX);
    const { dataSize } = await tss.nvReadPublic(index);
    await tss.nvWrite(index, new Uint8Array(dataSize));
  });
}

async function readAgentPcr(bus: TpmBus): Promise<Readonly<Record<PcrBank, Uint8Array>>> {
  return withTpm(bus, async (tpm) => {
    const value = async (bank: PcrBank) => (await tpm.pcrRead(bank, [AGENT_PCR])).get(AGENT_PCR) ?? new Uint8Array();
    return { sha256: await value("sha256"), sha384: await value("sha384") };
  });
}

async function attack({ bus, keys }: Tools, { events, release, packages }: Provisioned, name: string) {
  const { anchors } = keys;
  const sealed = await verifySealedPackage(packages.get(name) ?? new Uint8Array(), anchors);
  const imported = await withTpm(bus, async (tpm) => {
    for (const event of events) await tpm.pcrExtend(AGENT_PCR, launchEventDigests(event));
    // A launch that ended early left no counter. Whoever is root makes one: nothing in the way but the PCRs.
    await provisionEpoch(tpm.tss, anchors.releaseRoot, release.delegation);
    return importSealed(tpm.tss, sealed);
  });
  await bus.flushClient("unsealer");
  const request = unsealRequest({ sealed, imported, release, anchors });
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
