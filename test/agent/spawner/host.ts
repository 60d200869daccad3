import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { openSpawner, type ShimFile, type Spawner, type SpawnerTransport } from "../../../agent/spawner-client.ts";
import { ByteReader, ByteWriter, concatBytes, utf8 } from "../../../policy/index.ts";

const root = resolve(import.meta.dirname, "../../..");
const FLAGS = [
  ...["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result"],
  ...["-D_GNU_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"],
];

/** Root may give every process its own uid; anybody else gets one uid, in a user namespace. */
export const single = process.getuid?.() !== 0;
export const shimUid = single ? 0 : 991;

/** The real spawner and its stand-in agent and shim, compiled into a directory that all users may read. */
export interface Programs {
  readonly directory: string;
  readonly spawner: string;
  readonly agent: string;
  readonly shim: string;
  /** A shim that opens what it is told to: nodes and connections. */
  readonly door: string;
  readonly relay: string;
  /** Runs a program below filters of its own. */
  readonly filtered: string;
  /** Confines itself as the relay does and then tries to get out. */
  readonly relayEscape: string;
  /** Changes its own executable and leaves no trace of it. */
  readonly chameleon: string;
  remove(): void;
}

const sourcesOf = (folder: string): readonly string[] =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith(".c"))
    .map((name) => join(root, folder, name));

function build(output: string, sources: readonly string[], flags: readonly string[] = []): string {
  execFileSync("gcc", [...FLAGS, ...flags, "-o", output, ...sources]);
  return output;
}

export function buildPrograms(): Programs {
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-spawner-"));
  chmodSync(directory, 0o755);
  const own = (name: string, ...more: readonly string[]): string =>
    build(join(directory, name), [join(import.meta.dirname, `${name}.c`), ...more]);
  const endpoint = join(root, "agent/spawner/endpoint.c");
  const logFormat = join(root, "agent/spawner/log_format.c");
  return {
    directory,
    spawner: build(join(directory, "spawner"), sourcesOf("agent/spawner"), ["-static"]),
    relay: build(join(directory, "relay"), [...sourcesOf("agent/relay"), endpoint, logFormat], ["-static"]),
    agent: own("fake-agent"),
    // Dynamic, so that a private root without loader or libc would not do.
    shim: own("probe-shim"),
    door: own("door-shim", endpoint),
    relayEscape: own("relay-escape", join(root, "agent/relay/confine.c"), endpoint),
    filtered: own("filtered"),
    chameleon: own("chameleon"),
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}

/** Only what starts an agent: no shim, no relay. */
export function buildStart(): Programs {
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-spawner-"));
  chmodSync(directory, 0o755);
  const none = join(directory, "none");
  return {
    ...{ directory, relay: none, shim: none, door: none, relayEscape: none, filtered: none, chameleon: none },
    spawner: build(join(directory, "spawner"), sourcesOf("agent/spawner"), ["-static"]),
    agent: build(join(directory, "fake-agent"), [join(import.meta.dirname, "fake-agent.c")]),
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}

/** The spawner's way out as PID 1, in a program of its own. */
export function buildLastWords(directory: string): string {
  const others = sourcesOf("agent/spawner").filter((path) => !path.endsWith("/main.c"));
  return build(join(directory, "last-words"), [join(import.meta.dirname, "last-words.c"), ...others], ["-static"]);
}

/** The spawner's SHA-256 as a filter, with everything that finds a wrong read. */
export function buildHashPieces(directory: string): string {
  const hash = sourcesOf("agent/spawner").filter((path) => /\/sha256\w*\.c$/.test(path));
  const sanitised = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-U_FORTIFY_SOURCE"];
  return build(join(directory, "hash-pieces"), [join(import.meta.dirname, "hash-pieces.c"), ...hash], sanitised);
}

/** What PID 1 reads of its command line. */
export function buildBootWords(directory: string): string {
  const others = sourcesOf("agent/spawner").filter((path) => !path.endsWith("/main.c"));
  return build(join(directory, "boot-words"), [join(import.meta.dirname, "boot-words.c"), ...others], ["-static"]);
}

/** The lines of the spawner's and the relay's log, with everything that finds a wrong write. */
export function buildLogLines(directory: string): string {
  const sources = [join(import.meta.dirname, "log-lines.c"), join(root, "agent/spawner/log_format.c")];
  const sanitised = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-U_FORTIFY_SOURCE"];
  return build(join(directory, "log-lines"), sources, sanitised);
}

/** Files of a private root in which `program` runs at /shim: itself, its loader and its libraries. */
export function closureOf(program: string): ShimFile[] {
  const listed = execFileSync("ldd", [program], { encoding: "utf8" });
  const paths = [...listed.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] ?? "");
  return ["/shim", ...paths].map((path) => ({
    path,
    source: {
      kind: "root",
      path: path === "/shim" ? program : realpathSync(path),
    },
    executable: true,
    writable: false,
  }));
}

export interface HostSpawner {
  readonly client: Spawner;
  readonly pid: number;
  /** One packet to the spawner as given, and its answer; rejects when the spawner hangs up instead. */
  packet(bytes: Uint8Array, fds?: readonly number[]): Promise<Uint8Array>;
  /** The same, sent by a child of the agent. */
  packetFromChild(bytes: Uint8Array): Promise<Uint8Array>;
  write(fd: number, bytes: Uint8Array): Promise<void>;
  /** What can be read at once, empty at the end. */
  read(fd: number): Promise<Uint8Array>;
  close(fd: number): Promise<void>;
  pidfd(pid: number): Promise<number>;
  /** A pipe of the agent's that holds these bytes. It has ended unless it is kept open. */
  pipe(bytes: Uint8Array, keepOpen?: boolean): Promise<{ readonly read: number; readonly write: number }>;
  exitAgent(code: number): void;
  /** The spawner's exit code, when it has ended. */
  ended(): Promise<number>;
  log(): string;
  /** The number that `pattern` captures in the log, as soon as it is there: the log comes by another way than replies do. */
  logged(pattern: RegExp): Promise<number>;
  stop(): Promise<void>;
}

export interface HostOptions {
  readonly cabinet?: Uint8Array;
  readonly workloads?: string;
  readonly tpm?: string;
  /** The state volume's disk: a file. */
  readonly state?: string;
  /** The agent's store: a file. */
  readonly store?: string;
  /** Stand in for the relay's program, /sys and /dev. */
  readonly relay?: string;
  readonly sysfs?: string;
  readonly devices?: string;
  /** Seccomp filters that the spawner is started below. */
  readonly filters?: number;
  readonly inherited?: Inherited;
  /** One that another spawner had, or has; default: a new one. */
  readonly runDirectory?: string;
  /** A directory that it finds read-only, as an image's root. */
  readonly readOnly?: string;
  /** Killed by the kernel at this call, before it is done. */
  readonly killedAt?: { readonly call: string; readonly when: number };
}

/** What a service manager hands on: descriptors from 3 on, and the variables that name them. */
export interface Inherited {
  /** Descriptors of this process; `pipe`: one end of a socket pair. */
  readonly fds: readonly (number | "pipe")[];
  readonly variables: Readonly<Record<string, string>>;
  /** Default: the spawner's own. */
  readonly pid?: string;
}

const READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"';

/** Rejects with its log when it ends before its agent has called. */
export async function startSpawner(programs: Programs, options: HostOptions = {}): Promise<HostSpawner> {
  const directory = mkdtempSync(join(programs.directory, "run-"));
  chmodSync(directory, 0o755);
  const socketPath = join(directory, "test.sock");
  const server = createServer().listen(socketPath);
  await once(server, "listening");
  chmodSync(socketPath, 0o777);
  writeFileSync(join(directory, "cabinet"), options.cabinet ?? new Uint8Array());
  writeFileSync(join(directory, "workloads"), options.workloads ?? "");
  const child = spawnSpawner(programs, directory, options, socketPath);
  let log = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    log += text;
  });
  const closed = once(child, "close").then(() => child.exitCode ?? -1);
  const connected = once(server, "connection").then(([socket]) => socket as Socket);
  const socket = await Promise.race([connected, closed.then(() => Promise.reject(new Error(`spawner ended: ${log}`)))]);
  server.close();
  const agent = relay(socket);
  return {
    ...agent,
    pid: child.pid ?? -1,
    ended: () => closed,
    log: () => log,
    logged: async (pattern) => {
      for (;;) {
        const found = pattern.exec(log);
        if (found !== null) return Number(found[1]);
        await Promise.race([once(child.stderr ?? child, "data"), closed.then(() => Promise.reject(new Error(log)))]);
      }
    },
    stop: async () => {
      child.kill("SIGKILL");
      socket.destroy();
      await closed;
    },
  };
}

function spawnSpawner(programs: Programs, directory: string, options: HostOptions, socketPath: string): ChildProcess {
  const { fds = [], variables = {}, pid } = options.inherited ?? {};
  const { killedAt } = options;
  const command = [
    // Whatever it becomes, the shell's process id is the spawner's.
    ...(options.inherited === undefined ? [] : ["sh", "-c", `LISTEN_PID=${pid ?? "$$"} exec "$0" "$@"`]),
    ...(options.filters === undefined ? [] : [programs.filtered, `${options.filters}`]),
    ...(single ? ["unshare", "--user", "--map-root-user", "--mount"] : []),
    ...(options.readOnly === undefined ? [] : ["unshare", "--mount", "sh", "-c", READ_ONLY, options.readOnly]),
    ...(killedAt === undefined ? [] : ["strace", "-qq", "-o", "/dev/null", ...killing(killedAt)]),
    ...[programs.spawner, "--service", "--run-dir", options.runDirectory ?? join(directory, "shims")],
    ...["--cabinet", join(directory, "cabinet"), "--workloads", join(directory, "workloads")],
    ...["--tpm", options.tpm ?? join(directory, "no-tpm")],
    ...(options.state === undefined ? [] : ["--state", options.state]),
    ...(options.store === undefined ? [] : ["--store", options.store]),
    ...["--relay", options.relay ?? programs.relay],
    ...(options.sysfs === undefined ? [] : ["--sysfs", options.sysfs]),
    ...(options.devices === undefined ? [] : ["--devices", options.devices]),
    ...(single ? ["--single-uid"] : []),
    ...["--", programs.agent, socketPath],
  ];
  const [file = "", ...args] = command;
  return spawn(file, args, { stdio: ["ignore", "ignore", "pipe", ...fds], env: { ...process.env, ...variables } });
}

/** Options of strace(1). */
function killing({ call, when }: NonNullable<HostOptions["killedAt"]>): readonly string[] {
  return ["-e", `trace=${call}`, "-e", `inject=${call}:signal=SIGKILL:when=${when}`];
}

type Agent = Omit<HostSpawner, "pid" | "ended" | "log" | "logged" | "stop">;

function relay(socket: Socket): Agent {
  const order = orders(socket);
  const send = async (kind: "C" | "F", request: Uint8Array, fds: readonly number[]) => {
    const body = new ByteWriter().u32(fds.length);
    for (const fd of fds) body.u32(fd);
    const reader = await order(kind, body.bytes(request).finish());
    const count = reader.u32("fds");
    const got = Array.from({ length: count }, () => reader.u32("fd"));
    return { bytes: reader.bytes(reader.remaining, "packet"), fds: got };
  };
  const number = (value: number) => new ByteWriter().u32(value).finish();
  const transport: SpawnerTransport = {
    call: (_fd, request, fds) => send("C", request, fds),
    closeFd: (fd) => void order("K", number(fd)),
  };
  return {
    client: openSpawner(transport, 3),
    packet: async (bytes, fds = []) => (await send("C", bytes, fds)).bytes,
    packetFromChild: async (bytes) => (await send("F", bytes, [])).bytes,
    write: async (fd, bytes) => void (await order("W", concatBytes(number(fd), bytes))),
    read: async (fd) => {
      const reader = await order("R", number(fd));
      return reader.bytes(reader.remaining, "data");
    },
    close: async (fd) => void (await order("K", number(fd))),
    pidfd: async (pid) => (await order("P", number(pid))).u32("pidfd"),
    pipe: async (bytes, keepOpen = false) => {
      const reader = await order("E", concatBytes(Uint8Array.of(keepOpen ? 1 : 0), bytes));
      return { read: reader.u32("reading end"), write: reader.u32("writing end") };
    },
    exitAgent: (code) => void order("X", Uint8Array.of(code)).catch(() => undefined),
  };
}

/** One command to the stand-in agent after the other; rejects when it has ended or the call behind it failed. */
function orders(socket: Socket): (kind: string, body: Uint8Array) => Promise<ByteReader> {
  const waiting: {
    resolve(reader: ByteReader): void;
    reject(error: Error): void;
  }[] = [];
  let buffered: Uint8Array = new Uint8Array();
  socket.on("data", (data) => {
    buffered = concatBytes(buffered, typeof data === "string" ? utf8(data) : data);
    while (buffered.length >= 4) {
      const length = new ByteReader(buffered, "answer").u32("length");
      if (buffered.length < 4 + length) return;
      const reader = new ByteReader(buffered.slice(4, 4 + length), "answer");
      buffered = buffered.slice(4 + length);
      const errno = reader.u32("errno");
      if (errno === 0) waiting.shift()?.resolve(reader);
      else waiting.shift()?.reject(new Error(`stand-in agent: errno ${errno}`));
    }
  });
  socket.on("error", () => undefined);
  socket.on("close", () => {
    for (const { reject } of waiting.splice(0)) reject(new Error("stand-in agent: ended"));
  });
  return (kind, body) =>
    new Promise((fulfil, reject) => {
      waiting.push({ resolve: fulfil, reject });
      socket.write(new ByteWriter().sized32(concatBytes(utf8(kind), body)).finish());
    });
}
