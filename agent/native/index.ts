import { createRequire } from "node:module";
import { resolve } from "node:path";
import { AgentError } from "../errors.ts";
import type { Connector, NativeStream, Sockets } from "./sockets.ts";

export {
  CONNECTOR_DIED,
  type Connector,
  type NativeStream,
  type Sockets,
  STREAM_EVENTS,
  WOULD_BLOCK,
} from "./sockets.ts";

/** One message and the file descriptors that came with it. The receiver owns them: close each with `closeFd`. */
export interface Message {
  readonly bytes: Uint8Array;
  readonly fds: readonly number[];
}

/** Who connected, as the kernel recorded it at connect(2). `pidfd` is the caller's to close. */
export interface PeerCredentials extends Connector {
  readonly pidfd: number;
}

/** One watch-listed call of a shim, as the kernel showed it. `args` are the six registers, pointers unread. */
export interface Attempt {
  readonly nr: number;
  readonly args: readonly bigint[];
  readonly tid: number;
  /** How many attempts at this call there have been, this one included. */
  readonly count: number;
}

/**
 * What a shim has tried. Whatever it did after an attempt, the attempt is in here before it can be noticed. Not in here is an attempt that
 * the kernel took back before it was received: its process ended, or the thread was sent a signal. It was denied all the same.
 */
export interface Watch {
  /** Attempts so far by system-call number; 512 stands for all numbers from there on. */
  counts(): Readonly<Record<number, number>>;
  /** All of them together: cheap enough to be asked after every reply. */
  total(): number;
  /**
   * True once nobody answers any more though the shim may live: its attempts are denied (ENOSYS) and no longer counted. Nothing that it
   * says from then on may be released.
   */
  blind(): boolean;
  /** The first 64 since the watch began or was renewed. */
  recorded(): readonly Attempt[];
  /** Makes room for 64 more: what was recorded before, such as a probe's own attempts, is forgotten. Counts go on. */
  renew(): void;
}

/** The system calls that Node has no function for. Errors are AgentError ERR_NATIVE with the system's own as cause. */
export interface Native extends Sockets {
  /** Sends one SOCK_SEQPACKET message (1 MiB at most) and takes one answer, on a worker thread. Default timeout 60 s. */
  call(
    fd: number,
    request: Uint8Array,
    sendFds: readonly number[],
    maxReply: number,
    timeoutMs?: number,
  ): Promise<Message>;
  /** One recvmsg(2) of at most `max` bytes and 16 descriptors, on a worker thread. No bytes mean the end. Default timeout 60 s. */
  receiveWithFds(fd: number, max: number, timeoutMs?: number): Promise<Message>;
  peerCredentials(fd: number): PeerCredentials;
  /** Whether the process of a pidfd has not ended yet. */
  isAlive(pidfd: number): boolean;
  /** Milliseconds since the machine started, time in suspend included (CLOCK_BOOTTIME): nobody can set it back. */
  bootTime(): number;
  closeFd(fd: number): void;
  /** A pipe's read end, then its write end, neither inherited by a started program. */
  pipe(): readonly [number, number];
  /** Two connected AF_UNIX sockets that a started program does not inherit by itself. */
  socketPair(type: "stream" | "seqpacket"): readonly [number, number];
  /** No core dumps of this process, and its memory is closed to other processes of the same user. */
  setNonDumpable(): void;
  /**
   * Answers every notification of a seccomp listener with EPERM on a thread of its own. Those that are recorded reach `onEvent`,
   * all are counted. The thread runs at the agent's own priority: the longer an attempt waits, the longer it can be taken back unseen.
   * Takes the descriptor over, does not keep the process alive, and ends with the last process under the filter; see `Watch.blind`.
   */
  watchNotifications(listenerFd: number, onEvent: (attempt: Attempt) => void): Watch;
}

/** The addon's own functions: every argument is required. */
interface Binding {
  call(
    fd: number,
    request: Uint8Array,
    sendFds: readonly number[],
    maxReply: number,
    timeoutMs: number,
  ): Promise<Message>;
  receiveWithFds(fd: number, max: number, timeoutMs: number): Promise<Message>;
  peerCredentials(fd: number): PeerCredentials;
  isAlive(pidfd: number): boolean;
  bootTime(): number;
  closeFd(fd: number): void;
  pipe(): readonly [number, number];
  socketPair(type: number): readonly [number, number];
  setNonDumpable(): void;
  watchNotifications(listenerFd: number, onEvent: (attempt: Attempt) => void): Watch;
  listen(path: string): number;
  accept(fd: number, onConnection: (stream: Handle, connector: Connector) => void): Handle;
  stop(listener: Handle): void;
  streamOpen(fd: number): Handle;
  streamStart(stream: Handle, onEvent: (events: number) => void): void;
  streamWatch(stream: Handle, wanted: boolean): void;
  streamReceive(stream: Handle, buffer: Uint8Array): number;
  streamTakeLate(stream: Handle): void;
  streamSend(stream: Handle, bytes: Uint8Array, from: number): number;
  streamHeld(stream: Handle): boolean;
  streamEnd(stream: Handle): void;
  streamPidfd(stream: Handle): number;
  streamClose(stream: Handle): void;
}

/** What only the addon can look into. */
type Handle = { readonly opaque: unique symbol };

const DEFAULT_TIMEOUT_MS = 60_000;
const SOCKET_TYPES = { stream: 1, seqpacket: 5 } as const;

/**
 * Loads `agent_native.node` from `directory`.
 *
 * @throws AgentError ERR_ENVIRONMENT when it is missing or was built for another Node-API
 */
export function openNative(directory: string): Native {
  const path = resolve(directory, "agent_native.node");
  const binding = loadBinding(path);
  return {
    call: (fd, request, sendFds, maxReply, timeoutMs = DEFAULT_TIMEOUT_MS) =>
      later("call", () => binding.call(fd, request, sendFds, maxReply, timeoutMs)),
    receiveWithFds: (fd, max, timeoutMs = DEFAULT_TIMEOUT_MS) =>
      later("receiveWithFds", () => binding.receiveWithFds(fd, max, timeoutMs)),
    peerCredentials: (fd) => now("peerCredentials", () => binding.peerCredentials(fd)),
    isAlive: (pidfd) => now("isAlive", () => binding.isAlive(pidfd)),
    bootTime: () => binding.bootTime(),
    closeFd: (fd) => now("closeFd", () => binding.closeFd(fd)),
    pipe: () => now("pipe", () => binding.pipe()),
    socketPair: (type) => now("socketPair", () => binding.socketPair(SOCKET_TYPES[type])),
    setNonDumpable: () => now("setNonDumpable", () => binding.setNonDumpable()),
    watchNotifications: (fd, onEvent) => now("watchNotifications", () => binding.watchNotifications(fd, onEvent)),
    listen: (path) => now("listen", () => binding.listen(path)),
    openStream: (fd) =>
      nativeStream(
        binding,
        now("openStream", () => binding.streamOpen(fd)),
      ),
    accept: (fd, onConnection) => {
      const listener = now("accept", () =>
        binding.accept(fd, (handle, connector) => onConnection(nativeStream(binding, handle), connector)),
      );
      return { close: () => binding.stop(listener) };
    },
  };
}

/** What the addon adds to the length of what was received when there may be more. */
const MAY_HAVE_MORE = 1 << 30;

function nativeStream(binding: Binding, handle: Handle): NativeStream {
  let more = false;
  return {
    start: (onEvent) => now("start", () => binding.streamStart(handle, onEvent)),
    watchWritable: (wanted) => now("watch", () => binding.streamWatch(handle, wanted)),
    receive: (buffer) => {
      const said = now("receive", () => binding.streamReceive(handle, buffer));
      more = said >= MAY_HAVE_MORE;
      return more ? said - MAY_HAVE_MORE : said;
    },
    get mayHaveMore() {
      return more;
    },
    takeLate: () => now("takeLate", () => binding.streamTakeLate(handle)),
    send: (bytes, from) => now("send", () => binding.streamSend(handle, bytes, from)),
    isHeld: () => now("isHeld", () => binding.streamHeld(handle)),
    end: () => now("end", () => binding.streamEnd(handle)),
    pidfd: () => {
      const fd = now("pidfd", () => binding.streamPidfd(handle));
      return fd < 0 ? null : fd;
    },
    close: () => binding.streamClose(handle),
  };
}

function loadBinding(path: string): Binding {
  try {
    // The addon is built with this file; its shape is Binding. `path` as base: a bundle has no import.meta.url.
    return createRequire(path)(path) as Binding;
  } catch (cause) {
    throw new AgentError("ERR_ENVIRONMENT", `native addon ${path}: cannot be loaded`, { cause });
  }
}

function now<T>(name: string, act: () => T): T {
  try {
    return act();
  } catch (cause) {
    throw failed(name, cause);
  }
}

async function later<T>(name: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (cause) {
    throw failed(name, cause);
  }
}

function failed(name: string, cause: unknown): unknown {
  if (cause instanceof TypeError || !(cause instanceof Error)) return cause;
  if ("code" in cause && cause.code === "EFOREIGN") {
    const fields = { expected: "bytes of the process that connected", got: cause.message };
    return new AgentError("ERR_FOREIGN_SENDER", "socket message", { ...fields, cause });
  }
  return new AgentError("ERR_NATIVE", `${name}: ${cause.message}`, { cause });
}
