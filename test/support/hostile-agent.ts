import { spawn } from "node:child_process";
import { writeSync } from "node:fs";
import { connect } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { deserialize, serialize } from "node:v8";
import { AgentError } from "../../agent/errors.ts";
import { type Attempt, openNative } from "../../agent/native/index.ts";
import { openShim, type Shim, type SignRequest } from "../../agent/shim-client.ts";
import { openSpawner, type ShimFile, type ShimStatus, type StartShim } from "../../agent/spawner-client.ts";
import { ByteReader, ByteWriter, concatBytes, utf8 } from "../../policy/index.ts";
import { heldNow, type LabHeld, type LabProfile, type LabServing, profileFor, serveLab } from "./lab-broker.ts";

// The agent's side of a laboratory: a Node process below the real spawner that has the agent's own clients and does what a test says over
// a Unix socket. Arguments: the socket, the directory of the native parts.

/** What a test may ask; both ends share this file. */
export interface LabOrders {
  start(request: LabStart): Promise<LabStarted>;
  /** A method of the shim's client. */
  shim(id: number, method: keyof Shim, args: readonly unknown[]): Promise<unknown>;
  /** A secret as the unsealer sends it. */
  give(id: number, secret: Uint8Array): void;
  attempts(id: number): Readonly<Record<number, number>>;
  /** Every attempt by itself, from C_Sign. In one order: a guest's port takes its time for each. */
  tryAll(id: number): Promise<readonly LabAttempt[]>;
  /** The first ones, as they were handed over. */
  events(id: number): readonly Attempt[];
  /** The code of the reason why the connection ended; null while it has not. */
  closed(id: number): string | null;
  status(id: number): Promise<ShimStatus>;
  /** STOP_SHIM. */
  stop(id: number): Promise<void>;
  /** START to a log-in at `slot`, timed here. The PIN waits in the channel. */
  launch(request: LabStart, module: string, label: string, pin: Uint8Array): Promise<LabLaunch>;
  /** The same program without its sandbox: `preload` makes nothing of what confines it. */
  startBare(id: number, bare: LabBare): Promise<void>;
  /** Milliseconds for `count` signatures, `depth` of them waiting at any time. */
  signatures(id: number, request: SignRequest, count: number, depth: number): Promise<number>;
  /** The longest time in which this process's event loop did not turn, in milliseconds, since it was last asked. */
  delay(): number;
  /** The scopes of a policy over one of its shims. */
  serveScopes(serving: LabServing): Promise<void>;
  held(): LabHeld;
  /** Of this process, for so many milliseconds. */
  profile(milliseconds: number): Promise<LabProfile>;
}

export interface LabStart {
  readonly files: readonly ShimFile[];
  readonly shim: StartShim;
  readonly timeoutMs: number;
}

export interface LabStarted {
  readonly pid: number;
  readonly digests: readonly { readonly sha256: Uint8Array; readonly size: number }[];
}

export interface LabLaunch {
  readonly ms: number;
  readonly slotId: bigint;
}

export interface LabAttempt {
  readonly name: string;
  /** 0: it worked. */
  readonly errno: number;
  /** What the kernel had shown before it, and after it. */
  readonly before: Readonly<Record<number, number>>;
  readonly after: Readonly<Record<number, number>>;
}

export interface LabBare {
  readonly program: string;
  readonly profile: string;
  readonly preload: string;
  readonly environment: Readonly<Record<string, string>>;
}

/** An error of the agent's, as it travels. */
export interface LabFailure {
  readonly code: string;
  readonly message: string;
  readonly rv: bigint | undefined;
}

export type LabAnswer = { readonly value: unknown } | { readonly failure: LabFailure };

interface Held {
  readonly shim: Shim;
  readonly pin: number;
  readonly events: Attempt[];
  closed: string | null;
}

/** An order to the module, as what its key is to sign. */
export function orderRequest(text: string): SignRequest {
  return { slotId: 0n, handle: 7n, mechanism: 0x1041n, pss: null, data: utf8(text) };
}

async function tryAll(shim: Shim): Promise<readonly LabAttempt[]> {
  const tried: LabAttempt[] = [];
  for (;;) {
    const before = shim.attempts();
    const text = new TextDecoder().decode(await shim.sign(orderRequest(`try ${tried.length}`)));
    if (text === "end") return tried;
    const [name = "", errno = ""] = text.split("\t");
    tried.push({ name, errno: Number(errno), before, after: shim.attempts() });
  }
}

function makeOrders(nativeDirectory: string): LabOrders {
  const native = openNative(nativeDirectory);
  const spawner = openSpawner(native, 3);
  const held = new Map<number, Held>();
  const loop = monitorEventLoopDelay({ resolution: 5 });
  loop.enable();
  const get = (id: number): Held => {
    const found = held.get(id);
    if (found === undefined) throw new TypeError(`no shim ${id}`);
    return found;
  };
  const hold = async (id: number, request: number, pin: number, timeoutMs: number): Promise<Shim> => {
    const events: Attempt[] = [];
    const onAttempt = (attempt: Attempt) => void events.push(attempt);
    const shim = await openShim(request, native, { timeoutMs, onAttempt });
    const entry: Held = { shim, pin, events, closed: null };
    void shim.closed.then(({ code }) => {
      entry.closed = code;
    });
    held.set(id, entry);
    return shim;
  };
  const start: LabOrders["start"] = async ({ files, shim: request, timeoutMs }) => {
    const digests = await spawner.prepareShim(request.id, files);
    const { pid, fds } = await spawner.startShim(request);
    await hold(request.id, fds.request, fds.pin, timeoutMs);
    return { pid, digests };
  };
  const give: LabOrders["give"] = (id, secret) =>
    void writeSync(get(id).pin, new ByteWriter().sized16(secret).finish());
  return {
    ...{ start, give },
    launch: async (request, module, label, pin) => {
      const before = performance.now();
      await start(request);
      const { id } = request.shim;
      give(id, pin);
      const { slots } = await get(id).shim.load(module);
      const slotId = slots.find((slot) => slot.label === label)?.slotId ?? -1n;
      await get(id).shim.login(slotId);
      return { ms: performance.now() - before, slotId };
    },
    startBare: async (id, { program, profile, preload, environment }) => {
      const [ours, theirs] = native.socketPair("stream");
      const [readEnd, writeEnd] = native.pipe();
      const env = { ...environment, LD_PRELOAD: preload };
      // a session of its own, as the spawner gives one: the scheduler shares processors out by sessions
      spawn(program, [profile], {
        env,
        cwd: "/",
        detached: true,
        stdio: ["ignore", "ignore", "inherit", theirs, readEnd],
      });
      for (const fd of [theirs, readEnd]) native.closeFd(fd);
      await hold(id, ours, writeEnd, 60_000);
    },
    signatures: async (id, request, count, depth) => {
      const { shim } = get(id);
      const before = performance.now();
      let left = count;
      const signOn = async () => {
        for (; left > 0; ) {
          left -= 1;
          await shim.sign(request);
        }
      };
      await Promise.all(Array.from({ length: depth }, signOn));
      return performance.now() - before;
    },
    shim: async (id, method, args) => {
      const { shim } = get(id);
      const act = shim[method];
      if (typeof act !== "function") throw new TypeError(`${method} is no method`);
      // the caller's types are those of `Shim`: only this channel has lost them
      return await (act as (...given: readonly unknown[]) => unknown)(...args);
    },
    attempts: (id) => get(id).shim.attempts(),
    tryAll: (id) => tryAll(get(id).shim),
    events: (id) => get(id).events,
    closed: (id) => get(id).closed,
    status: (id) => spawner.shimStatus(id),
    stop: (id) => spawner.stopShim(id),
    serveScopes: (serving) => serveLab({ native, spawner, shimOf: (id) => get(id).shim }, serving),
    held: () => heldNow(),
    profile: (milliseconds) => profileFor(milliseconds),
    delay: () => {
      const longest = loop.max / 1e6;
      loop.reset();
      return longest;
    },
  };
}

function failureOf(error: unknown): LabFailure {
  if (error instanceof AgentError) return { code: error.code, message: error.message, rv: error.rv };
  return { code: "ERR_LAB", message: String(error), rv: undefined };
}

/** Frames of u32 length | v8-serialised value, in both directions. */
export function frames(receive: (value: unknown) => void): (bytes: Uint8Array) => void {
  let buffered: Uint8Array = new Uint8Array();
  return (bytes) => {
    buffered = concatBytes(buffered, bytes);
    while (buffered.length >= 4) {
      const length = new ByteReader(buffered, "lab").u32("length");
      if (buffered.length < 4 + length) return;
      const value = deserialize(buffered.subarray(4, 4 + length));
      buffered = buffered.slice(4 + length);
      receive(value);
    }
  };
}

export function frame(value: unknown): Uint8Array {
  return new ByteWriter().sized32(new Uint8Array(serialize(value))).finish();
}

/** Takes orders as bytes come, and writes answers. */
export function serveOrders(nativeDirectory: string, write: (bytes: Uint8Array) => void): (bytes: Uint8Array) => void {
  const orders = makeOrders(nativeDirectory);
  return frames((value) => {
    const { id, order, args } = value as { id: number; order: keyof LabOrders; args: readonly unknown[] };
    const act = orders[order] as (...given: readonly unknown[]) => unknown;
    Promise.resolve()
      .then(() => act(...args))
      .then(
        (result): LabAnswer => ({ value: result }),
        (error: unknown): LabAnswer => ({ failure: failureOf(error) }),
      )
      .then((answer) => write(frame({ id, ...answer })));
  });
}

function main([socketPath = "", nativeDirectory = ""]: readonly string[]): void {
  const socket = connect(socketPath);
  socket.on("close", () => process.exit(0));
  socket.on(
    "data",
    serveOrders(nativeDirectory, (bytes) => void socket.write(bytes)),
  );
}

if (import.meta.main) main(process.argv.slice(2));
