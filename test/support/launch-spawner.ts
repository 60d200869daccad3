import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AgentError } from "../../agent/errors.ts";
import { openShim, type Shim } from "../../agent/shim-client.ts";
import type { ShimStatus, Spawner } from "../../agent/spawner-client.ts";
import { concatBytes, sha256, sha256Hex, toHex } from "../../policy/index.ts";
import { drain } from "./seal-fixture.ts";
import { native } from "./shim-fixture.ts";

/** A request to a shim; to another one than shim 0 with its id, such as `login 1`. */
export type ShimStep = `${ShimRequest}` | `${ShimRequest} ${number}`;
type ShimRequest = "open" | "probe" | "credential" | "load" | "login" | "keys" | "sign" | "decrypt" | "uses" | "arm";
export type SpawnerStep = "prepareShim" | "startShim";

export interface BenchSpawner {
  readonly spawner: Spawner;
  /** Requests to the spawner and the shims, in order. */
  readonly calls: string[];
  readonly capAsked: string[];
  /** What nobody took from the credential channels. */
  channelLeft(): Uint8Array;
  /** Its number among the shims that were started. */
  idOf(requestFd: number): number;
  killShim(id: number): Promise<void>;
  processOf(id: number): ChildProcess | undefined;
  close(): Promise<void>;
}

export interface SpawnerSetup {
  readonly cabinet: Uint8Array;
  readonly programs: string;
  /** As the real one caps, on a connection of its own. */
  readonly cap: () => Promise<void>;
}

/**
 * Hashes what it is asked to copy and starts the real shim, under its real filters, on this machine's own files. The private
 * root and the request table are the real spawner's, which has tests of its own.
 */
export function openBenchSpawner({ cabinet, programs, cap }: SpawnerSetup): BenchSpawner {
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-channel-"));
  const calls: string[] = [];
  const capAsked: string[] = [];
  const shims = new Map<number, BenchShim>();
  const profiles = new Map<number, string>();
  let left: Uint8Array = new Uint8Array();
  const channelLeft = () => {
    for (const { channel } of shims.values()) if (channel !== null) left = concatBytes(left, drain(channel));
    return left;
  };
  const killShim = async (id: number) => endProcess(shims.get(id)?.child);
  const notHere = () => Promise.reject(new AgentError("ERR_SPAWNER", "not on the bench"));
  const spawner: Spawner = {
    prepareShim: async (id, files) => {
      calls.push(step("prepareShim", id));
      return files.map(({ path, source }) => {
        const bytes =
          source.kind === "root"
            ? new Uint8Array(readFileSync(source.path))
            : cabinet.subarray(source.offset, source.offset + source.length);
        if (path === "/profile") profiles.set(id, sha256Hex(bytes));
        return { sha256: sha256(bytes), size: bytes.length };
      });
    },
    startShim: async ({ id, profileSha256, environment }) => {
      calls.push(step("startShim", id));
      if (toHex(profileSha256) !== profiles.get(id)) throw new AgentError("ERR_SPAWNER", "spawner refused: profile");
      const fifo = join(directory, `channel-${id}`);
      const { child, channel, request, pin } = startProcess(programs, fifo, environment);
      shims.set(id, { child, channel, request });
      return { pid: child.pid ?? -1, fds: { request, pin } };
    },
    ...{ peerExe: notHere, startWorkloads: notHere, openState: notHere },
    shimStatus: async (id) => processStatus(shims.get(id)?.child),
    stopShim: killShim,
    capAndReboot: async (reason) => {
      capAsked.push(reason);
      await cap();
    },
  };
  return {
    ...{ spawner, calls, capAsked, killShim, channelLeft },
    idOf: (fd) => [...shims].find(([, { request }]) => request === fd)?.[0] ?? -1,
    processOf: (id) => shims.get(id)?.child,
    close: async () => {
      for (const id of shims.keys()) await killShim(id);
      channelLeft();
      for (const shim of shims.values()) {
        if (shim.channel !== null) closeSync(shim.channel);
        shim.channel = null;
      }
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

interface BenchShim {
  readonly child: ChildProcess;
  readonly request: number;
  /** Shows what nobody took. */
  channel: number | null;
}

function step<Name extends string>(name: Name, id: number): Name | `${Name} ${number}` {
  return id === 0 ? name : `${name} ${id}`;
}

function startProcess(programs: string, fifo: string, environment: readonly string[]) {
  const [request, theirs] = native().socketPair("stream");
  execFileSync("mkfifo", [fifo]);
  const channel = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  const pin = openSync(fifo, constants.O_WRONLY);
  const readEnd = openSync(fifo, constants.O_RDONLY);
  const child = spawn(join(programs, "shim"), [join(programs, "local.profile")], {
    env: Object.fromEntries(environment.map((entry) => entry.split(/=(.*)/s).slice(0, 2))),
    cwd: "/",
    stdio: ["ignore", "ignore", "ignore", theirs, readEnd],
  });
  native().closeFd(theirs);
  closeSync(readEnd);
  return { child, channel, request, pin };
}

function isRunning(child: ChildProcess | undefined): child is ChildProcess {
  return child !== undefined && child.exitCode === null && child.signalCode === null;
}

async function endProcess(child: ChildProcess | undefined): Promise<void> {
  if (!isRunning(child)) return;
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}

/** What the kernel says of a process of this machine; it shares its namespaces with everybody. */
function processStatus(child: ChildProcess | undefined): ShimStatus {
  const nothing = { shimNamespaces: new Map(), spawnerNamespaces: new Map(), ownNamespaces: [] };
  const inheritedFilters = Number(statusOf("self").get("Seccomp_filters") ?? 0);
  const state = isRunning(child) ? "running" : child === undefined ? "never-started" : "ended";
  const fields = isRunning(child) ? statusOf(`${child.pid}`) : new Map<string, string>();
  return { ...nothing, state, fields, inheritedFilters, waitStatus: 0 };
}

function statusOf(pid: string): ReadonlyMap<string, string> {
  const lines = readFileSync(`/proc/${pid}/status`, "utf8").trimEnd().split("\n");
  return new Map(lines.map((line) => [line.split(":\t")[0] ?? "", line.split(":\t")[1] ?? ""]));
}

export interface WatchOptions {
  /** The shim process is killed before this request. */
  readonly killShimAt?: ShimStep;
  readonly shimTimeoutMs?: number;
  /** Instead of what the shim says of this kernel. */
  readonly landlockAbi?: number;
  /** Before each request to a shim. */
  readonly onShimStep?: (step: ShimStep, child: ChildProcess | undefined) => void | Promise<void>;
}

/** Every request to a shim goes on the list; before the chosen one the process is really killed. */
export async function openWatchedShim(
  fd: number,
  onAttempt: () => void,
  spawner: BenchSpawner,
  options: WatchOptions,
): Promise<Shim> {
  const id = spawner.idOf(fd);
  const take = async (name: ShimRequest) => {
    const named = step(name, id);
    spawner.calls.push(named);
    await options.onShimStep?.(named, spawner.processOf(id));
    if (options.killShimAt === named) await spawner.killShim(id);
  };
  await take("open");
  const shim = await openShim(fd, native(), { timeoutMs: options.shimTimeoutMs ?? 20_000, onAttempt });
  const watched = <K extends Exclude<ShimRequest, "open">>(name: K): Shim[K] =>
    (async (...args: unknown[]) => {
      await take(name);
      // the arguments are passed on as they came, to the function of the same name
      return (shim[name] as (...given: unknown[]) => Promise<unknown>)(...args);
    }) as Shim[K];
  const { landlockAbi = shim.ready.landlockAbi } = options;
  return {
    ...shim,
    ready: { ...shim.ready, landlockAbi },
    ...{ probe: watched("probe"), credential: watched("credential"), load: watched("load"), login: watched("login") },
    ...{ keys: watched("keys"), sign: watched("sign"), decrypt: watched("decrypt") },
    ...{ uses: watched("uses"), arm: watched("arm") },
  };
}
