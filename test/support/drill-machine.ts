import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, lstatSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { AgentConfig } from "../../agent/config.ts";
import { bankAlgorithm, type PcrBank, parseFirmwareLog } from "../../attest/index.ts";
import { AGENT_PCR, utf8 } from "../../policy/index.ts";
import { openStoreFile, Store } from "../../seal/index.ts";
import { DEVICES } from "./launch-documents.ts";
import { withTpm } from "./launch-fixture.ts";
import { childrenOf, commandOf, descendantsOf } from "./process-tree.ts";
import { NATIVE_DIRECTORY } from "./shim-fixture.ts";
import { isRoot } from "./socket-workload.ts";
import { bootLog } from "./stand-in-machine.ts";
import { type SoftwareTpm, startSwtpm } from "./swtpm.ts";
import { openTpmBus, type TpmBus } from "./tpm-bus.ts";

// A machine that is real from its TPM up to its workloads' sockets, and made of files and commands alone: spawner, agent, unsealer, shim and
// relay below a software TPM, into which what its firmware would measure of an image's kernel is extended. Only the kernel is this machine's.

const root = resolve(import.meta.dirname, "../..");
const PORTS = ["control", "report"] as const;

export interface DrillMachine extends AsyncDisposable {
  /** Its ports' sockets and its cabinet. */
  readonly directory: string;
  readonly tpm: SoftwareTpm;
  /** The measured configuration that an image for it has. */
  readonly config: Uint8Array;
  /** A power cycle; boots the image in this folder. */
  start(image: string): Promise<void>;
  /** Switched off. May be called twice. */
  stop(): Promise<void>;
  /** Of the present boot: resolves when the spawner has capped and rebooted, here with its exit code. */
  ended(): Promise<number | null>;
  /** Written by agent and spawner in the present boot. */
  console(): string;
  agentPid(): number;
  shimPids(): readonly number[];
  /** While it is switched off: as five minutes in which everything was served, so that what was lost before counts no more. */
  forgetLosses(): void;
}

/**
 * @param directory made; its path must be short
 * @param through a command that runs the agent's own, e.g. with another environment
 */
export async function openDrillMachine(directory: string, through: readonly string[] = []): Promise<DrillMachine> {
  mkdirSync(directory);
  const inside = join(directory, "inside");
  const at = (name: string) => join(inside, name);
  for (const name of ["scopes", "pci", "audit"]) mkdirSync(at(name), { recursive: true });
  for (const path of [directory, inside]) chmodSync(path, 0o711);
  layOutDevices(at("pci"));
  writeFileSync(at("workloads"), "");
  openStoreFile(at("store"), { create: true }).close();
  const portPair = at("port-pair");
  const flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"];
  execFileSync("gcc", [...flags, "-o", portPair, join(root, "test/support/port-pair.c")]);
  const tpm = await startSwtpm();
  const bus = await openTpmBus(tpm);
  const config = utf8(`${JSON.stringify(configuration(bus, directory), null, 2)}\n`);
  writeFileSync(at("agent.json"), config);
  let boot: Boot | null = null;
  const stop = async () => {
    await boot?.stop();
    boot = null;
  };
  const running = (): Boot => {
    if (boot === null) throw new Error("the machine is switched off");
    return boot;
  };
  return {
    ...{ directory, tpm, config, stop },
    start: async (image) => {
      await stop();
      rmSync(at("shims"), { recursive: true, force: true }); // a memory file system in a machine
      await tpm.restart();
      await measureFirmware(bus, at("firmware-event-log"), new Uint8Array(readFileSync(join(image, "uki.efi"))));
      boot = await startBoot(directory, portPair, bus, through);
    },
    ended: () => running().ended,
    console: () => running().console(),
    agentPid: () => childrenOf(running().pid)[0] ?? -1,
    shimPids: () => descendantsOf(running().pid).filter((pid) => commandOf(pid) === "shim"),
    forgetLosses: () => forgetLosses(at("store")),
    [Symbol.asyncDispose]: async () => {
      await stop();
      await bus[Symbol.asyncDispose]();
      await tpm.stop();
    },
  };
}

function forgetLosses(path: string): void {
  const medium = openStoreFile(path, { create: false });
  const { store } = Store.open(medium);
  store.write({ ...store.content, recoveries: 0 });
  medium.close();
}

function layOutDevices(pci: string): void {
  DEVICES.forEach((device, index) => {
    const [vendor, model] = device.split(":");
    mkdirSync(join(pci, `${index}`));
    writeFileSync(join(pci, `${index}/vendor`), `0x${vendor}\n`);
    writeFileSync(join(pci, `${index}/device`), `0x${model}\n`);
  });
}

function configuration(bus: TpmBus, directory: string): AgentConfig {
  const at = (name: string) => join(directory, "inside", name);
  return {
    ...{
      version: 1,
      system: "image",
      agentPcr: AGENT_PCR,
      tcti: bus.tcti("agent"),
      programs: NATIVE_DIRECTORY,
      attestationKey: "p256",
    },
    ...{ cabinet: join(directory, "cabinet.img"), scopes: at("scopes"), auditLog: at("audit"), stateVolume: false },
    ...{ store: at("store"), firmwareLog: at("firmware-event-log"), pciDevices: at("pci"), usbDevices: at("usb") },
    ...{ controlPort: at("control"), reportPort: at("report") },
  };
}

async function measureFirmware(bus: TpmBus, logFile: string, uki: Uint8Array): Promise<void> {
  const log = bootLog(uki);
  writeFileSync(logFile, log);
  await withTpm(bus, async (tpm) => {
    for (const { pcr, digests } of parseFirmwareLog(log).events) {
      const digest = (bank: PcrBank) => digests.get(bankAlgorithm(bank));
      const [sha256, sha384] = [digest("sha256"), digest("sha384")];
      if (sha256 !== undefined && sha384 !== undefined) await tpm.pcrExtend(pcr, { sha256, sha384 });
    }
  });
}

interface Boot {
  readonly pid: number;
  readonly ended: Promise<number | null>;
  console(): string;
  stop(): Promise<void>;
}

async function startBoot(directory: string, portPair: string, bus: TpmBus, through: readonly string[]): Promise<Boot> {
  const at = (name: string) => join(directory, "inside", name);
  const ports: Port[] = [];
  for (const name of PORTS) ports.push(await openPort(portPair, at(name), join(directory, `ironclaw.${name}.sock`)));
  const [file = "", ...args] = [
    ...["unshare", ...(isRoot ? [] : ["--user", "--map-root-user"]), "--mount"],
    ...[join(NATIVE_DIRECTORY, "spawner"), "--service", "--single-uid", "--relay", join(NATIVE_DIRECTORY, "relay")],
    ...["--run-dir", at("shims"), "--cabinet", join(directory, "cabinet.img"), "--workloads", at("workloads")],
    ...["--tpm", `unix:${bus.path("other")}`, "--store", at("store")],
    ...["--", ...through, process.execPath, join(root, "agent/main.ts"), "agent", "--config", at("agent.json")],
  ];
  const child = spawn(file, args, { stdio: ["ignore", "ignore", "pipe"] });
  let text = "";
  child.stderr.setEncoding("utf8").on("data", (piece: string) => {
    text += piece;
  });
  const ended = once(child, "close").then(() => child.exitCode);
  return {
    pid: child.pid ?? -1,
    ended,
    console: () => text,
    stop: async () => {
      child.kill("SIGKILL");
      await ended;
      for (const port of ports) await port.close();
    },
  };
}

interface Port {
  close(): Promise<void>;
}

/** A character device for the guest, and for the host a socket that takes one connection at a time. */
async function openPort(portPair: string, device: string, socketPath: string): Promise<Port> {
  for (const path of [device, socketPath]) rmSync(path, { force: true });
  const child = spawn(portPair, [device], { stdio: ["pipe", "pipe", "inherit"] });
  while (lstatSync(device, { throwIfNoEntry: false }) === undefined) await delay(5);
  let client: Socket | null = null;
  child.stdout.on("data", (bytes: Buffer) => client?.write(bytes));
  const server = createServer((socket) => {
    client?.destroy();
    client = socket;
    socket.on("error", () => socket.destroy());
    socket.on("data", (bytes) => child.stdin.write(bytes));
    socket.on("close", () => {
      if (client === socket) client = null;
    });
  }).listen(socketPath);
  await once(server, "listening");
  return { close: () => closePort(child, server, () => client?.destroy()) };
}

async function closePort(child: ChildProcess, server: Server, hangUp: () => void): Promise<void> {
  hangUp();
  server.close();
  const closed = once(child, "close");
  child.stdin?.end();
  await closed;
}
