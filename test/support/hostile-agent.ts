import { writeSync } from "node:fs";
import { connect } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { deserialize, serialize } from "node:v8";
import { AgentError } from "../../agent/errors.ts";
import { type Attempt, openNative } from "../../agent/native/index.ts";
import { openShim, type Shim } from "../../agent/shim-client.ts";
import { openSpawner, type ShimFile, type ShimStatus, type StartShim } from "../../agent/spawner-client.ts";
import { ByteReader, ByteWriter, concatBytes } from "../../policy/index.ts";

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
  /** The first ones, as they were handed over. */
  events(id: number): readonly Attempt[];
  /** The code of the reason why the connection ended; null while it has not. */
  closed(id: number): string | null;
  status(id: number): Promise<ShimStatus>;
  /** The longest time in which this process's event loop did not turn, in milliseconds, since it was last asked. */
  delay(): number;
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
  return {
    start: async ({ files, shim: request, timeoutMs }) => {
      const digests = await spawner.prepareShim(request.id, files);
      const { pid, fds } = await spawner.startShim(request);
      const events: Attempt[] = [];
      const onAttempt = (attempt: Attempt) => void events.push(attempt);
      const shim = await openShim(fds.request, native, { timeoutMs, onAttempt });
      const entry: Held = { shim, pin: fds.pin, events, closed: null };
      void shim.closed.then(({ code }) => {
        entry.closed = code;
      });
      held.set(request.id, entry);
      return { pid, digests };
    },
    shim: async (id, method, args) => {
      const { shim } = get(id);
      const act = shim[method];
      if (typeof act !== "function") throw new TypeError(`${method} is no method`);
      // the caller's types are those of `Shim`: only this channel has lost them
      return await (act as (...given: readonly unknown[]) => unknown)(...args);
    },
    give: (id, secret) => void writeSync(get(id).pin, new ByteWriter().sized16(secret).finish()),
    attempts: (id) => get(id).shim.attempts(),
    events: (id) => get(id).events,
    closed: (id) => get(id).closed,
    status: (id) => spawner.shimStatus(id),
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
