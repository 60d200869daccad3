import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AgentError } from "../../agent/errors.ts";
import { openShim, type Shim } from "../../agent/shim-client.ts";
import type { Spawner } from "../../agent/spawner-client.ts";
import { concatBytes, sha256, sha256Hex, toHex } from "../../policy/index.ts";
import { drain } from "./seal-fixture.ts";
import { native } from "./shim-fixture.ts";

export type ShimStep = "open" | "probe" | "credential" | "load" | "login" | "keys" | "sign" | "arm";
export type SpawnerStep = "prepareShim" | "startShim";

export interface BenchSpawner {
  readonly spawner: Spawner;
  /** Requests to the spawner and the shim, in order. */
  readonly calls: string[];
  readonly capAsked: string[];
  /** What nobody took from the credential channel. */
  channelLeft(): Uint8Array;
  killShim(): Promise<void>;
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
  const state: { child: ChildProcess | null; channel: number | null; left: Uint8Array; profile: string } = {
    ...{ child: null, channel: null, left: new Uint8Array(), profile: "" },
  };
  const channelLeft = () => {
    if (state.channel !== null) state.left = concatBytes(state.left, drain(state.channel));
    return state.left;
  };
  const killShim = async () => {
    const { child } = state;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  };
  const notHere = () => Promise.reject(new AgentError("ERR_SPAWNER", "not on the bench"));
  const spawner: Spawner = {
    prepareShim: async (_id, files) => {
      calls.push("prepareShim");
      return files.map(({ path, source }) => {
        const bytes =
          source.kind === "root"
            ? new Uint8Array(readFileSync(source.path))
            : cabinet.subarray(source.offset, source.offset + source.length);
        if (path === "/profile") state.profile = sha256Hex(bytes);
        return { sha256: sha256(bytes), size: bytes.length };
      });
    },
    startShim: async ({ profileSha256, environment }) => {
      calls.push("startShim");
      if (toHex(profileSha256) !== state.profile) throw new AgentError("ERR_SPAWNER", "spawner refused: profile");
      const [ours, theirs] = native().socketPair("stream");
      const fifo = join(directory, "channel");
      execFileSync("mkfifo", [fifo]);
      state.channel = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK); // shows what nobody took
      const pin = openSync(fifo, constants.O_WRONLY);
      const readEnd = openSync(fifo, constants.O_RDONLY);
      const child = spawn(join(programs, "shim"), [join(programs, "local.profile")], {
        env: Object.fromEntries(environment.map((entry) => entry.split(/=(.*)/s).slice(0, 2))),
        cwd: "/",
        stdio: ["ignore", "ignore", "ignore", theirs, readEnd],
      });
      state.child = child;
      native().closeFd(theirs);
      closeSync(readEnd);
      return { pid: child.pid ?? -1, fds: { request: ours, pin } };
    },
    ...{ peerExe: notHere, shimStatus: notHere, startWorkloads: notHere, openState: notHere },
    stopShim: killShim,
    capAndReboot: async (reason) => {
      capAsked.push(reason);
      await cap();
    },
  };
  return {
    ...{ spawner, calls, capAsked, killShim, channelLeft },
    close: async () => {
      await killShim();
      channelLeft();
      if (state.channel !== null) closeSync(state.channel);
      state.channel = null;
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

export interface WatchOptions {
  /** The shim process is killed before this request. */
  readonly killShimAt?: ShimStep;
  readonly shimTimeoutMs?: number;
  /** Before each request to the shim. */
  readonly onShimStep?: (step: ShimStep) => void | Promise<void>;
}

/** Every request to the shim goes on the list; before the chosen one the process is really killed. */
export async function openWatchedShim(fd: number, spawner: BenchSpawner, options: WatchOptions): Promise<Shim> {
  const step = async (name: ShimStep) => {
    spawner.calls.push(name);
    await options.onShimStep?.(name);
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
    ...{ probe: watched("probe"), credential: watched("credential"), load: watched("load"), login: watched("login") },
    ...{ keys: watched("keys"), sign: watched("sign"), arm: watched("arm") },
  };
}
