import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { randomBytes, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { chmodSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { expect } from "vitest";
import {
  type Challenge,
  defaultQuotePcrs,
  type Enrolment,
  parseEvidence,
  type TrustAnchor,
  type VerifiedEvidence,
  verifyEndorsement,
  verifyEvidence,
} from "../../attest/index.ts";
import {
  encodeBundle,
  encodeCabinet,
  fromBase64,
  parseBundle,
  type SlotName,
  sha256Hex,
  toBase64,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { encodeLostRecord, LOST_RECORD_OFFSET, type LostRecord, openStoreFile, Store } from "../../seal/index.ts";
import { enrol } from "../../vm-images/enrol.ts";
import { changeModule } from "./launch-documents.ts";
import {
  DEVICES,
  FIRMWARE_LOG,
  LAUNCH_PIN,
  type LaunchBench,
  openLaunchBench,
  type Provisioned,
  type Provisioning,
  withinReach,
} from "./launch-fixture.ts";
import { childrenOf, commandOf, descendantsOf } from "./process-tree.ts";
import { readEkCertificate } from "./seal-fixture.ts";
import { NATIVE_DIRECTORY, SOFTHSM } from "./shim-fixture.ts";
import type { BusCommand, BusFault } from "./tpm-bus.ts";

// The agent as it runs in the guest, below the real spawner and beside the real shim in its private root: only the virtual
// machine is missing. One uid for all, so that no test needs root.
const root = resolve(import.meta.dirname, "../..");
const SOFTHSM_CONF = "/etc/softhsm2.conf";
const TOKENS = "/var/lib/softhsm/tokens";
const conf = utf8(`directories.tokendir = ${TOKENS}\nobjectstore.backend = file\nlog.level = ERROR\n`);

export interface Agent {
  readonly provisioned: Provisioned;
  readonly directory: string;
  ask(request: Record<string, unknown>): Promise<Record<string, unknown>>;
  /** A line as it is, and the answer's line. */
  say(line: string): Promise<Record<string, unknown>>;
  /** `status` until the launch has ended. */
  launched(): Promise<Record<string, unknown>>;
  report(challenge: Challenge): Promise<Uint8Array>;
  /** Of the first ten records of the audit log, those that are not of the log about itself: these come with time. */
  audited(): Promise<readonly Record<string, unknown>[]>;
  /** Everything that the agent and the spawner wrote to the console. */
  console(): string;
  /** The spawner's process. */
  readonly pid: number;
  /** SIGKILL to the agent's process alone: the spawner's first child. */
  kill(): void;
  /** The spawner and everything below it. */
  processes(): readonly { readonly pid: number; readonly command: string }[];
  /** The processes of the shims that run, in the order of their ids. */
  shimPids(): readonly number[];
  /** The spawner's exit code. */
  readonly ended: Promise<number | null>;
  /** May be called twice. */
  stop(): Promise<void>;
}

type EnrolControl = Parameters<typeof enrol>[2];

export interface AgentOptions {
  /** Another policy: it is released too. */
  readonly policy?: NonNullable<Provisioning["policy"]>;
  /** Besides the PIN. */
  readonly credentials?: NonNullable<Provisioning["credentials"]>;
  /** The machine has a store, which says that it has rebooted so often for a lost login. Default: it has none. */
  readonly store?: number | null;
  /** Where it has a store: the spawner of the boot before noted there that its agent was lost. */
  readonly lost?: LostRecord | null;
  readonly slots?: (slots: Map<SlotName, Uint8Array>) => void;
  readonly fault?: (command: BusCommand) => BusFault;
  readonly config?: (text: string) => string;
  /**
   * Callers of other users are told apart, as in the guest: for root alone. Default: in a user namespace that knows one user, where every
   * caller is nobody.
   */
  readonly realCallers?: boolean;
  /** Its TPM commands do not go over the bus, which takes part of a millisecond for each: nothing sees or counts them. */
  readonly withoutBus?: boolean;
  /** The agent as one file, as machines run it. Default: its sources. */
  readonly program?: string;
}

export interface ServiceBench extends AsyncDisposable {
  readonly bench: LaunchBench;
  /** A power cycle, and the spawner with the agent below it, on a machine whose PIN was never tried. */
  start(options?: AgentOptions): Promise<Agent>;
  /** Ends every agent that was started. */
  stopAll(): Promise<void>;
  /** As a verifier does it: the EK's chain first, then the AK is bound to it, and only then anything is believed. */
  enrolled(agent: Agent): Promise<Enrolment>;
  verified(agent: Agent, enrolment: Enrolment, bank: Challenge["bank"]): Promise<VerifiedEvidence>;
  /** Nobody can reach a released value from here, and the TPM says no to the real unsealer (I3). */
  expectClosed(agent: Agent): Promise<void>;
}

export async function openServiceBench(): Promise<ServiceBench> {
  const bench = await openLaunchBench();
  const portPair = join(bench.directory, "port-pair");
  const flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"];
  execFileSync("gcc", [...flags, "-D_GNU_SOURCE", "-o", portPair, join(root, "test/support/port-pair.c")]);
  const running: Agent[] = [];
  const stopAll = async () => {
    for (const agent of running.splice(0)) await agent.stop();
  };
  return {
    ...{ bench, stopAll, verified },
    start: async (options = {}) => {
      const agent = await start(bench, portPair, options);
      running.push(agent);
      return agent;
    },
    enrolled: (agent) => enrolled(bench, agent),
    expectClosed: (agent) => expectClosed(bench, agent),
    [Symbol.asyncDispose]: async () => {
      await stopAll();
      await bench[Symbol.asyncDispose]();
    },
  };
}

async function start(
  bench: LaunchBench,
  portPair: string,
  {
    slots = () => undefined,
    fault,
    config = (text) => text,
    policy = () => undefined,
    store = null,
    lost = null,
    credentials = [],
    realCallers = false,
    withoutBus = false,
    program = join(root, "agent/main.ts"),
  }: AgentOptions,
): Promise<Agent> {
  await bench.powerOn();
  await bench.forgetLogins();
  const directory = mkdtempSync(join(bench.directory, "agent-"));
  const at = (name: string) => join(directory, name);
  const ports = await Promise.all(["control", "report"].map((name) => openPort(portPair, at(name))));
  if (store !== null) {
    const medium = openStoreFile(at("store"), { create: true });
    const kept = Store.open(medium).store;
    kept.write({ ...kept.content, recoveries: store });
    if (lost !== null) medium.write(LOST_RECORD_OFFSET, encodeLostRecord(lost));
  }
  const provisioned = await provisionAt(bench, directory, { policy, store, credentials, withoutBus });
  const contents = new Map(provisioned.slots);
  slots(contents);
  for (const name of ["scopes", "pci"]) mkdirSync(at(name));
  if (realCallers) chmodSync(directory, 0o711);
  DEVICES.forEach((device, index) => {
    const [vendor, model] = device.split(":");
    mkdirSync(at(`pci/${index}`));
    writeFileSync(at(`pci/${index}/vendor`), `0x${vendor}\n`);
    writeFileSync(at(`pci/${index}/device`), `0x${model}\n`);
  });
  writeFileSync(at("cabinet"), encodeCabinet(contents));
  writeFileSync(at("agent.json"), config(new TextDecoder().decode(provisioned.configBytes)));
  writeFileSync(at("firmware-event-log"), FIRMWARE_LOG);
  writeFileSync(at("workloads"), "");
  bench.bus.arm(fault);
  const [file = "", ...args] = [
    ...["unshare", ...(realCallers ? [] : ["--user", "--map-root-user"]), "--mount"],
    ...[join(NATIVE_DIRECTORY, "spawner"), "--service", "--single-uid", "--relay", join(NATIVE_DIRECTORY, "relay")],
    ...["--run-dir", at("shims"), "--cabinet", at("cabinet"), "--workloads", at("workloads")],
    ...["--tpm", `unix:${bench.bus.path("other")}`, ...(store === null ? [] : ["--store", at("store")])],
    ...["--", process.execPath, program, "agent", "--config", at("agent.json")],
  ];
  const child = spawn(file, args, { stdio: ["ignore", "ignore", "pipe"] });
  return speak(child, provisioned, directory, ports as [Port, Port]);
}

/** The bench's machine with the paths of a guest: a private root, a token that is copied into it. */
function provisionAt(
  bench: LaunchBench,
  directory: string,
  {
    policy,
    store,
    credentials,
    withoutBus,
  }: Required<Pick<AgentOptions, "policy" | "store" | "credentials" | "withoutBus">>,
): Promise<Provisioned> {
  const at = (name: string) => join(directory, name);
  const provisioned = bench.provision({
    credentials,
    config: {
      ...{
        tcti: withoutBus ? bench.machine.tcti : bench.bus.tcti("agent"),
        programs: NATIVE_DIRECTORY,
        cabinet: at("cabinet"),
        scopes: at("scopes"),
      },
      ...{ auditLog: at("audit.log"), firmwareLog: at("firmware-event-log") },
      ...{ pciDevices: at("pci"), usbDevices: at("usb") },
      ...{ controlPort: at("control"), reportPort: at("report"), store: store === null ? null : at("store") },
    },
    policy: (draft) => {
      const profile = new Uint8Array(readFileSync(join(NATIVE_DIRECTORY, "local.profile")));
      changeModule(draft, {
        ...{ config: { [SOFTHSM_CONF]: sha256Hex(conf) }, environment: { SOFTHSM2_CONF: SOFTHSM_CONF } },
        ...{ writable: [TOKENS], profile: { name: "local", sha256: sha256Hex(profile) } },
      });
      policy(draft);
    },
  });
  return provisioned.then((made) => {
    const library = parseBundle(made.slots.get("module") ?? new Uint8Array()).find(({ path }) => path === SOFTHSM);
    const slots = new Map(made.slots);
    slots.set(
      "module",
      encodeBundle([
        [SOFTHSM, library?.bytes ?? new Uint8Array()],
        [SOFTHSM_CONF, conf],
      ]),
    );
    slots.set("token", encodeBundle(bench.token.files.map(({ path, bytes }) => [path, bytes] as const)));
    return { ...made, slots };
  });
}

interface Port {
  readonly child: ChildProcess;
  write(bytes: Uint8Array): void;
  /** The next bytes up to the first that `length` accepts as a whole. */
  take(length: (buffered: Buffer) => number | null): Promise<Buffer>;
  close(): Promise<void>;
}

async function openPort(portPair: string, path: string): Promise<Port> {
  const child = spawn(portPair, [path], { stdio: ["pipe", "pipe", "inherit"] });
  const state: { buffered: Buffer; wake: () => void } = { buffered: Buffer.alloc(0), wake: () => undefined };
  child.stdout.on("data", (bytes: Buffer) => {
    state.buffered = Buffer.concat([state.buffered, bytes]);
    state.wake();
  });
  while (lstatSync(path, { throwIfNoEntry: false }) === undefined) {
    if (child.exitCode !== null) throw new Error(`port-pair ended with ${child.exitCode}`);
    await delay(5);
  }
  return {
    child,
    write: (bytes) => void child.stdin.write(bytes),
    take: async (length) => {
      for (;;) {
        const whole = length(state.buffered);
        if (whole !== null && state.buffered.length >= whole) {
          const taken = state.buffered.subarray(0, whole);
          state.buffered = state.buffered.subarray(whole);
          return taken;
        }
        await new Promise<void>((done) => {
          state.wake = done;
        });
      }
    },
    close: async () => {
      const closed = once(child, "close");
      child.stdin.end();
      await closed;
    },
  };
}

function speak(child: ChildProcess, provisioned: Provisioned, directory: string, ports: [Port, Port]): Agent {
  const [control, reports] = ports;
  let text = "";
  child.stderr?.setEncoding("utf8").on("data", (piece: string) => {
    text += piece;
  });
  const ended = once(child, "close").then(() => child.exitCode);
  const say = async (line: string): Promise<Record<string, unknown>> => {
    control.write(utf8(`${line}\n`));
    const answer = control.take((buffered) => {
      const end = buffered.indexOf(10);
      return end < 0 ? null : end + 1;
    });
    const gone = ended.then((code) => Promise.reject(new Error(`the agent ended with ${code}: ${text}`)));
    const bytes = await Promise.race([answer, gone]);
    expect(bytes.includes(LAUNCH_PIN)).toBe(false); // I4
    return JSON.parse(bytes.toString());
  };
  let stopping: Promise<void> | null = null;
  const stop = async () => {
    child.kill("SIGKILL");
    await ended;
    for (const port of ports) await port.close();
  };
  let id = 0;
  const ask: Agent["ask"] = (request) => say(JSON.stringify({ id: ++id, ...request }));
  return {
    ...{ provisioned, directory, ask, say, ended },
    audited: async () => {
      const { records } = await ask({ op: "audit", from: 1, limit: 10 });
      return (records as Record<string, unknown>[]).filter(({ statement }) => statement === null);
    },
    launched: async () => {
      for (;;) {
        const status = await ask({ op: "status" });
        if (["serving", "refused", "stopped"].includes(String(status["state"]))) return status;
        await delay(20);
      }
    },
    report: async ({ nonce, bank, pcrs }) => {
      const { length } = await ask({ op: "challenge", nonce: toHex(nonce), bank, pcrs });
      const framed = await reports.take((buffered) => (buffered.length < 4 ? null : 4 + buffered.readUInt32BE(0)));
      expect(framed.length).toBe(4 + Number(length));
      return new Uint8Array(framed.subarray(4));
    },
    console: () => text,
    pid: child.pid ?? -1,
    kill: () => process.kill(childrenOf(child.pid ?? 0)[0] ?? 0, "SIGKILL"),
    processes: () =>
      [child.pid ?? 0, ...descendantsOf(child.pid ?? 0)].map((pid) => ({ pid, command: commandOf(pid) })),
    shimPids: () => descendantsOf(child.pid ?? 0).filter((pid) => commandOf(pid) === "shim"),
    stop: () => {
      stopping ??= stop();
      return stopping;
    },
  };
}

async function enrolled(bench: LaunchBench, agent: Agent): Promise<Enrolment> {
  const { machine } = bench;
  const [rootCa = "", issuer = ""] = machine.caFiles;
  const issuerDer = new Uint8Array(new X509Certificate(readFileSync(issuer)).raw);
  const anchor: TrustAnchor = {
    name: "software TPM",
    pem: readFileSync(rootCa, "utf8"),
    assurance: "software-tpm",
    requireEkPurpose: true,
    manufacturers: "any",
  };
  const endorsement = verifyEndorsement([await readEkCertificate(machine, "p384"), issuerDer], [anchor], new Date());
  return enrol("bench-vm", endorsement, {
    endorsement: async () =>
      (await agent.ask({ op: "endorsement" })) as Awaited<ReturnType<EnrolControl["endorsement"]>>,
    activate: async (credentialBlob, encryptedSecret) => {
      const blobs = { credentialBlob: toBase64(credentialBlob), encryptedSecret: toBase64(encryptedSecret) };
      return fromBase64(String((await agent.ask({ op: "activate", ...blobs }))["secret"]), "secret");
    },
  });
}

async function verified(agent: Agent, enrolment: Enrolment, bank: Challenge["bank"]): Promise<VerifiedEvidence> {
  const challenge: Challenge = { bank, nonce: new Uint8Array(randomBytes(32)), pcrs: defaultQuotePcrs };
  const bytes = await agent.report(challenge);
  expect(Buffer.from(bytes).includes(LAUNCH_PIN)).toBe(false); // I4
  return verifyEvidence(parseEvidence(bytes), challenge, enrolment, null);
}

async function expectClosed(bench: LaunchBench, { provisioned }: Agent): Promise<void> {
  const present = await bench.agentPcr();
  for (const bank of ["sha256", "sha384"] as const) {
    expect(withinReach(present[bank], bank, provisioned.events)).toBe(false);
  }
  const { answer, received } = await bench.attack(provisioned);
  expect(answer).toMatchObject({ kind: "refused" });
  expect(received).toEqual(new Uint8Array());
}
