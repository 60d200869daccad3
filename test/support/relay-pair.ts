import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Endpoint, ShimFile } from "../../agent/spawner-client.ts";
import { sha256Hex } from "../../policy/index.ts";
import { bundleProgram } from "../../vm-images/bundle.ts";
import type { PairRequest, PairResult } from "./relay-pair-agent.ts";

// A library behind a real relay: the real spawner, relay and shim, the compiled profile, and files of this machine.

const root = resolve(import.meta.dirname, "../..");
const NATIVE = join(root, "build/native");
const single = process.getuid?.() !== 0;

export interface PairBench {
  readonly directory: string;
  run(pair: Pair): Promise<PairResult>;
  remove(): void;
}

export interface Pair {
  readonly profile: "local" | "relay" | "usb";
  readonly library: string;
  /** Objects that the library opens by itself, beyond what its ELF header names. */
  readonly opened?: readonly string[];
  /** Files that it reads. */
  readonly config?: readonly string[];
  readonly environment: readonly string[];
  readonly connect: readonly Endpoint[];
  readonly nodes?: readonly string[];
  readonly token: string;
  readonly pin: string;
  readonly data: string;
}

/** Everything that another user runs lies in a directory that all may read, Node included. */
export async function openPairBench(): Promise<PairBench> {
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-pair-"));
  chmodSync(directory, 0o755);
  for (const name of ["spawner", "relay", "shim", "agent_native.node", "local.profile", "relay.profile", "usb.profile"])
    copyFileSync(join(NATIVE, name), join(directory, name));
  copyFileSync(process.execPath, join(directory, "node"));
  writeFileSync(join(directory, "agent.cjs"), await bundleProgram(join(import.meta.dirname, "relay-pair-agent.ts")));
  return {
    directory,
    run: (pair) => run(directory, pair),
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}

async function run(directory: string, pair: Pair): Promise<PairResult> {
  const place = mkdtempSync(join(directory, "run-"));
  chmodSync(place, 0o777);
  const request: PairRequest = {
    natives: directory,
    result: join(place, "result"),
    files: filesOf(directory, pair),
    start: {
      id: 0,
      profileSha256: sha256Hex(new Uint8Array(readFileSync(join(directory, `${pair.profile}.profile`)))),
      environment: pair.environment,
      writable: [],
      nodes: pair.nodes ?? [],
      connect: pair.connect,
    },
    ...{ library: pair.library, token: pair.token, pin: pair.pin, data: pair.data },
  };
  writeFileSync(join(place, "request"), JSON.stringify(request));
  for (const name of ["cabinet", "workloads"]) writeFileSync(join(place, name), "");
  const log = await spawned(directory, place);
  if (!existsSync(request.result)) throw new Error(`the agent wrote no result: ${log}`);
  return JSON.parse(readFileSync(request.result, "utf8")) as PairResult;
}

/** Ends when the agent has ended, with the spawner's log. */
async function spawned(directory: string, place: string): Promise<string> {
  const [file = "", ...args] = [
    ...(single ? ["unshare", "--user", "--map-root-user", "--mount"] : []),
    ...[
      join(directory, "spawner"),
      "--service",
      "--run-dir",
      join(place, "shims"),
      "--relay",
      join(directory, "relay"),
    ],
    ...["--cabinet", join(place, "cabinet"), "--workloads", join(place, "workloads"), "--tpm", join(place, "no-tpm")],
    ...(single ? ["--single-uid"] : []),
    ...["--", join(directory, "node"), join(directory, "agent.cjs"), join(place, "request")],
  ];
  const child = spawn(file, args, { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    log += text;
  });
  // an agent that waits for what does not come: the spawner takes everything with it
  const tired = setTimeout(() => child.kill("SIGKILL"), 90_000);
  await once(child, "close");
  clearTimeout(tired);
  return log;
}

function filesOf(directory: string, pair: Pair): readonly ShimFile[] {
  const file = (path: string, from: string, executable: boolean): ShimFile => ({
    ...{ path, executable, writable: false },
    source: { kind: "root", path: realpathSync(from) },
  });
  const shim = join(directory, "shim");
  const objects = new Set([shim, pair.library, ...(pair.opened ?? [])].flatMap(dependencies));
  for (const path of [pair.library, ...(pair.opened ?? [])]) objects.add(path);
  return [
    file("/shim", shim, true),
    file("/profile", join(directory, `${pair.profile}.profile`), false),
    ...[...objects].map((path) => file(path, path, true)),
    ...(pair.config ?? []).map((path) => file(path, path, false)),
  ];
}

function dependencies(path: string): readonly string[] {
  const listed = execFileSync("ldd", [path], { encoding: "utf8" });
  return [...listed.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] ?? "");
}

/** A port of loopback on which nobody listens now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  await new Promise((done) => server.close(done));
  return address.port;
}

export interface Daemon {
  /** To all of its processes. */
  signal(name: "SIGSTOP" | "SIGCONT"): void;
  stop(): Promise<void>;
}

/** A program that serves until `stop`, which may be called twice; ready when `ready` says so. It and its children are a process group. */
export async function startDaemon(
  command: readonly string[],
  environment: Readonly<Record<string, string>>,
  ready: () => boolean | Promise<boolean>,
): Promise<Daemon> {
  const [file = "", ...args] = command;
  const child: ChildProcess = spawn(file, args, {
    ...{ env: { ...process.env, ...environment }, detached: true },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let log = "";
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding("utf8").on("data", (text: string) => {
      log += text;
    });
  const ended = once(child, "close");
  while (!(await ready())) {
    if (child.exitCode !== null) throw new Error(`${file} ended: ${log}`);
    await new Promise((done) => setTimeout(done, 50));
  }
  const signal = (name: NodeJS.Signals) => {
    const runs = child.exitCode === null && child.signalCode === null;
    if (child.pid !== undefined && runs) process.kill(-child.pid, name);
  };
  return {
    signal,
    stop: async () => {
      signal("SIGKILL");
      await ended;
    },
  };
}

export function makeDirectory(bench: Pick<PairBench, "directory">, name: string): string {
  const directory = join(bench.directory, name);
  mkdirSync(directory);
  return directory;
}
