import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, openSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { dirname, join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { AgentError } from "../../agent/errors.ts";
import type { Shim } from "../../agent/shim-client.ts";
import type { LoadedLibrary } from "../../agent/shim-replies.ts";
import type { ShimFile, ShimStatus, StartShim } from "../../agent/spawner-client.ts";
import { sha256, utf8 } from "../../policy/index.ts";
import type { Profile } from "../../policy/runtime/profile.ts";
import { compiledProfile, type ProfileName, profileText, readProfile } from "../../vm-images/profiles.ts";
import { frame, frames, type LabAnswer, type LabOrders, type LabStarted, orderRequest } from "./hostile-agent.ts";
import { type Bench, buildHostile, NATIVE_DIRECTORY } from "./shim-fixture.ts";

// The shim as it is in the guest: the real spawner, its namespaces and private root, the real profile, and the agent's own clients in a
// process below that spawner. Only the virtual machine and the TPM are missing.

const root = resolve(import.meta.dirname, "../..");
export const TOKENS = "/var/lib/softhsm/tokens";
export const MODULE = "/lab/module.so";
/** SPAWNER.md: shim ids are used once. */
const SHIMS = 16;
const MODULE_PARTS = ["acts", "calls", "endpoints", "exhaustion", "files", "kernel", "memory", "processes", "takeover"];

/** Root gives every process its own uid, unless the others could not read this tree; anybody else has one uid. */
const single = process.getuid?.() !== 0 || !readableByAll(process.execPath) || !readableByAll(root);

/**
 * A user that is neither root nor the lab's, and what its agent sees of it: in a namespace of one user everybody else is nobody. Null: only
 * root can become another.
 */
export const OTHER_USER: { readonly uid: number; readonly seen: number } | null =
  process.getuid?.() === 0 ? { uid: 2001, seen: single ? 65_534 : 2001 } : null;

function readableByAll(path: string): boolean {
  return path === "/" || ((statSync(path).mode & 0o5) === 0o5 && readableByAll(dirname(path)));
}

export interface LabBuild {
  readonly directory: string;
  /** The hostile module, compiled. */
  readonly module: string;
  readonly profile: Profile;
  /** The compiled profile's file. */
  readonly profilePath: string;
  /** The directory that the profile lets its library write to. */
  readonly writable: string;
}

export function buildLab(bench: Pick<Bench, "directory">, name: ProfileName = "local"): LabBuild {
  const writable = name === "local" ? TOKENS : "/var/lib/hsm";
  const parts = MODULE_PARTS.map((part) => join(root, "test/hostile", `lab-${part}.c`));
  const flags = ["-fvisibility=hidden", `-DTOKENS="${writable}"`];
  const module = buildHostile(bench, "lab-token", "module", [...flags, ...parts]);
  const profilePath = join(bench.directory, `${name}.profile`);
  writeFileSync(profilePath, compiledProfile(name));
  writeFileSync(join(bench.directory, "empty"), "");
  return { directory: bench.directory, module, profile: readProfile(profileText(name)), profilePath, writable };
}

export const fromRoot = (path: string, from: string, how: Partial<ShimFile> = {}): ShimFile => ({
  ...{ path, source: { kind: "root", path: from }, executable: false, writable: false, ...how },
});

/** The private root of a shim: itself, its loader and libc, the profile, a module. */
export function shimFiles({ profilePath }: Pick<LabBuild, "profilePath">, module: readonly ShimFile[]): ShimFile[] {
  const shim = join(NATIVE_DIRECTORY, "shim");
  const listed = execFileSync("ldd", [shim], { encoding: "utf8" });
  const libraries = [...listed.matchAll(/(\/\S+) \(0x/g)].map(([, path = ""]) => path);
  return [
    fromRoot("/shim", shim, { executable: true }),
    ...libraries.map((path) => fromRoot(path, path, { executable: true })),
    fromRoot("/profile", profilePath),
    ...module,
  ];
}

function labFiles(build: LabBuild): ShimFile[] {
  const empty = join(build.directory, "empty");
  return shimFiles(build, [
    fromRoot(MODULE, build.module, { executable: true }),
    fromRoot(`${build.writable}/results`, empty, { writable: true }),
  ]);
}

/** The numbers for which a profile has a rule in stage load, as `LAB_ALLOWED` wants them. */
function allowedBitmap({ load }: Profile): string {
  const digits = Array.from({ length: 128 }, () => 0);
  for (const { nr } of load) digits[nr >> 2] = (digits[nr >> 2] ?? 0) | (1 << (nr & 3));
  return digits.map((digit) => digit.toString(16)).join("");
}

/** How a request to a shim ended. */
export type Outcome =
  | { readonly kind: "answer"; readonly text: string }
  | { readonly kind: "failed"; readonly code: string; readonly rv: bigint | undefined };

/** The lab's one key signs. */
export const LAB_USES: Parameters<Shim["uses"]>[0] = [{ slotId: 0n, handle: 7n, use: "sign" }];

export interface LabShim {
  readonly id: number;
  readonly started: LabStarted;
  /** A method of the agent's client. Rejects with the AgentError that it rejected with. */
  call<K extends "load" | "login" | "keys" | "uses" | "arm" | "status" | "probe">(
    method: K,
    ...args: Parameters<Shim[K]>
  ): Promise<Awaited<ReturnType<Shim[K]>>>;
  /** LOAD, and a PIN, LOGIN, KEYS and USES for the lab's token. */
  serve(): Promise<LoadedLibrary>;
  /** An order to the module, through C_Sign. */
  order(text: string): Promise<Outcome>;
  close(): Promise<void>;
  give(secret: string): Promise<void>;
  attempts(): Promise<Readonly<Record<number, number>>>;
  tryAll(): ReturnType<LabOrders["tryAll"]>;
  events(): ReturnType<LabOrders["events"]> extends infer E ? Promise<E> : never;
  closed(): Promise<string | null>;
  status(): Promise<ShimStatus>;
  /** STOP_SHIM. */
  stop(): Promise<void>;
  /** Waits for the end of its process. */
  ended(): Promise<string>;
  holdResults(): void;
  /** The lines that the module wrote: place, attempt, errno. What the spawner unmounts at the shim's end must have been held before. */
  results(): readonly { readonly place: string; readonly name: string; readonly errno: number }[];
}

export interface LabStartOptions {
  readonly environment?: Readonly<Record<string, string>>;
  readonly timeoutMs?: number;
  /** Instead of the lab's module and its files. */
  readonly files?: readonly ShimFile[];
  readonly profileSha256?: Uint8Array;
  /** Endpoints of the shim's relay. */
  readonly connect?: StartShim["connect"];
}

export interface Lab {
  readonly build: LabBuild;
  /** Below a new spawner when the present one has no number left for a shim. */
  start(options?: LabStartOptions): Promise<LabShim>;
  /** Number of a shim that the present machine can still start. */
  reserve(): Promise<number>;
  /** An order to the agent of now. */
  readonly ask: Ask;
  /** Another shim below the same agent, that nobody attacks from: what it answers to an order. */
  neighbour(): Promise<Outcome>;
  /** How long the agent's event loop stood still at most since it was last asked, in ms. */
  agentDelay(): Promise<number>;
  readonly spawnerPid: () => number;
  stop(): Promise<void>;
}

export function openLab(build: LabBuild): Lab {
  let present: { readonly machine: Machine; readonly neighbour: LabShim; next: number } | null = null;
  const stop = async () => {
    await present?.machine.stop();
    present = null;
  };
  const openMachine = async () => {
    await stop();
    const machine = await startMachine(build);
    const neighbour = await startShim(build, machine, 0, {});
    present = { machine, neighbour, next: 1 };
    await neighbour.serve();
    await neighbour.call("arm");
    return present;
  };
  const current = async () => present ?? (await openMachine());
  const withRoom = async () => (present === null || present.next === SHIMS ? await openMachine() : present);
  return {
    ...{ build, stop },
    start: async (options = {}) => {
      const here = await withRoom();
      return startShim(build, here.machine, here.next++, options);
    },
    reserve: async () => (await withRoom()).next++,
    // generic functions do not compose: order and arguments are passed on as they came
    ask: (async (...order: readonly [string, ...unknown[]]) => {
      const { machine } = await current();
      return (machine.ask as (...same: readonly [string, ...unknown[]]) => unknown)(...order);
    }) as Ask,
    neighbour: async () => (await current()).neighbour.order("sign"),
    agentDelay: async () => (await current()).machine.ask("delay"),
    spawnerPid: () => present?.machine.pid ?? -1,
  };
}

export type Ask = <K extends keyof LabOrders>(
  order: K,
  ...args: Parameters<LabOrders[K]>
) => Promise<Awaited<ReturnType<LabOrders[K]>>>;

export interface Machine {
  readonly ask: Ask;
  readonly pid: number;
  readonly directory: string;
  log(): string;
  stop(): Promise<void>;
}

async function startMachine({ directory: parent }: LabBuild): Promise<Machine> {
  const directory = mkdtempSync(join(parent, "run-"));
  chmodSync(directory, 0o755);
  const socketPath = join(directory, "test.sock");
  const server = createServer().listen(socketPath);
  await once(server, "listening");
  chmodSync(socketPath, 0o777);
  for (const name of ["cabinet", "workloads"]) writeFileSync(join(directory, name), "");
  const [file = "", ...args] = [
    ...(single ? ["unshare", "--user", "--map-root-user", "--mount"] : []),
    ...[join(NATIVE_DIRECTORY, "spawner"), "--service", "--run-dir", join(directory, "shims")],
    ...["--cabinet", join(directory, "cabinet"), "--workloads", join(directory, "workloads")],
    ...[
      "--relay",
      join(NATIVE_DIRECTORY, "relay"),
      "--tpm",
      join(directory, "no-tpm"),
      ...(single ? ["--single-uid"] : []),
    ],
    ...["--", process.execPath, join(import.meta.dirname, "hostile-agent.ts"), socketPath, NATIVE_DIRECTORY],
  ];
  const child = spawn(file, args, { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    log += text;
  });
  const closed = once(child, "close");
  const connected = once(server, "connection").then(([socket]) => socket as Socket);
  const gone = closed.then(() => Promise.reject(new Error(`the spawner ended: ${log}`)));
  gone.catch(() => undefined);
  const socket = await Promise.race([connected, gone]);
  server.close();
  return {
    ask: asker(socket, () => log),
    pid: child.pid ?? -1,
    directory,
    log: () => log,
    stop: async () => {
      child.kill("SIGKILL");
      socket.destroy();
      await closed;
    },
  };
}

export function asker(socket: Socket, log: () => string): Ask {
  const waiting = new Map<number, { done(value: unknown): void; failed(error: Error): void }>();
  let last = 0;
  const receive = frames((value) => {
    const { id, ...answer } = value as { id: number } & LabAnswer;
    const entry = waiting.get(id);
    waiting.delete(id);
    if ("value" in answer) entry?.done(answer.value);
    else entry?.failed(errorOf(answer.failure));
  });
  socket.on("data", receive);
  socket.on("error", () => undefined);
  const gone = () => new Error(`the lab's agent is gone: ${log()}`);
  socket.on("close", () => {
    for (const { failed } of waiting.values()) failed(gone());
  });
  const ask = (order: string, ...args: readonly unknown[]) =>
    new Promise<unknown>((done, failed) => {
      if (socket.destroyed) return failed(gone());
      waiting.set(++last, { done, failed });
      socket.write(frame({ id: last, order, args }));
    });
  // what comes back is what LabOrders says: the other end implements it
  return ask as Ask;
}

function errorOf({ code, message, rv }: { code: string; message: string; rv: bigint | undefined }): Error {
  if (code === "ERR_LAB") return new Error(message);
  // the codes of the other end are those of AgentError
  return new AgentError(code as AgentError["code"], message, rv === undefined ? {} : { rv });
}

export async function startShim(
  build: LabBuild,
  machine: Machine,
  id: number,
  options: LabStartOptions,
): Promise<LabShim> {
  const { ask } = machine;
  const environment = {
    ...{ LAB_ALLOWED: allowedBitmap(build.profile), LAB_OPENS: build.profile.opens.join(" ") },
    ...options.environment,
  };
  const started = await ask("start", {
    files: options.files ?? labFiles(build),
    shim: {
      id,
      profileSha256: options.profileSha256 ?? sha256(new Uint8Array(readFileSync(build.profilePath))),
      environment: Object.entries(environment).map(([name, value]) => `${name}=${value}`),
      ...{ writable: [build.writable], nodes: [], connect: options.connect ?? [] },
    },
    timeoutMs: options.timeoutMs ?? 60_000,
  });
  const area = `/proc/${machine.pid}/root${join(machine.directory, "shims", `${id}.rw`)}${build.writable}`;
  // the values that come back are those of the client's method of that name
  const call = ((method: keyof Shim, ...args: readonly unknown[]) => ask("shim", id, method, args)) as LabShim["call"];
  let held: number | null = null;
  const give = async (secret: string) => void (await ask("give", id, utf8(secret)));
  return {
    ...{ id, started, call, give },
    serve: async () => {
      const library = await call("load", MODULE);
      await give("lab-pin");
      await call("login", 0n);
      await call("keys", 0n);
      await call("uses", LAB_USES);
      return library;
    },
    order: (text) => outcomeOf(ask("shim", id, "sign", [orderRequest(text)]) as Promise<Uint8Array>),
    close: async () => void (await ask("shim", id, "close", [])),
    attempts: () => ask("attempts", id),
    tryAll: () => ask("tryAll", id),
    events: () => ask("events", id),
    closed: () => ask("closed", id),
    status: () => ask("status", id),
    stop: () => ask("stop", id),
    ended: async () => {
      for (;;) {
        const { state, waitStatus } = await ask("status", id);
        if (state === "ended") return waitText(waitStatus);
        await delay(10);
      }
    },
    holdResults: () => {
      held ??= openSync(join(area, "results"), "r");
    },
    results: () => parseResults(readFileSync(held ?? join(area, "results"), "utf8")),
  };
}

export function outcomeOf(promise: Promise<Uint8Array | undefined>): Promise<Outcome> {
  return promise.then(
    (bytes): Outcome => ({ kind: "answer", text: new TextDecoder().decode(bytes) }),
    (error: unknown): Outcome => {
      if (error instanceof AgentError) return { kind: "failed", code: error.code, rv: error.rv };
      throw error;
    },
  );
}

/** `exit 3` or the signal's number. */
function waitText(status: number): string {
  const signal = status & 0x7f;
  return signal === 0 ? `exit ${status >> 8}` : `signal ${signal}`;
}

function parseResults(text: string): ReturnType<LabShim["results"]> {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [place = "", name = "", errno = ""] = line.split("\t");
      return { place, name, errno: Number(errno) };
    });
}
