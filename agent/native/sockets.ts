/** What a stream's `onEvent` is told. `died`: the process that connected has ended. */
export const STREAM_EVENTS = { readable: 1, writable: 2, died: 4 } as const;

/** What `receive` and `send` return when the socket has nothing, or no room. */
export const WOULD_BLOCK = -1;

/** What `receive` returns when the process that connected has ended: whatever was sent, it cannot be told by whom. */
export const CONNECTOR_DIED = -2;

/** Who called connect(2), as the kernel recorded it: effective ids, and the id of the process, not of a thread. */
export interface Connector {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  /**
   * The kernel has no SO_PEERPIDFD (before Linux 6.5): the pidfd was opened by number, after the connection was accepted. It is the
   * connector's only when that process is older than the connection.
   */
  readonly byNumber: boolean;
}

/**
 * One accepted connection, non-blocking. Nothing is delivered by itself: `onEvent` says that the socket is ready, once for what came; the
 * caller takes until it WOULD_BLOCK, or there is no more.
 * Each method but `close` throws AgentError ERR_NATIVE when the connection is broken or closed.
 */
export interface NativeStream {
  /** Once, before anything else. */
  start(onEvent: (events: number) => void): void;
  /** Whether `writable` is told. */
  watchWritable(wanted: boolean): void;
  /**
   * At most the buffer's length: how many bytes, 0 at the end, WOULD_BLOCK or CONNECTOR_DIED. Every byte that it gives was sent by the connector itself:
   * process id and real user and group of the sender are the recorded ones, and that process was still alive after the bytes had come.
   *
   * @throws AgentError ERR_FOREIGN_SENDER when they were sent by another process, or with descriptors (of which none is opened)
   */
  receive(buffer: Uint8Array): number;
  /** Whether what was received last may not be all. Otherwise `onEvent` is told of whatever comes. */
  readonly mayHaveMore: boolean;
  /**
   * From now on what is received leaves the socket only some milliseconds or requests later: to take it wakes a sender that waits for its
   * reply, for nothing. For a sender that sends no more than its buffer holds before it has an answer.
   */
  takeLate(): void;
  /** How many of the bytes from `from` on the kernel took, or WOULD_BLOCK. */
  send(bytes: Uint8Array, from: number): number;
  /** Whether any process has the other end open. */
  isHeld(): boolean;
  /** No more bytes will be sent. */
  end(): void;
  /** A new descriptor of the connector's pidfd, the caller's to close; null when the connector had ended before it was accepted. */
  pidfd(): number | null;
  /** Everything is given back at once; calling it again does nothing. */
  close(): void;
}

/** Listening Unix stream sockets, and what is accepted there. SO_PASSCRED is on from before the first byte. */
export interface Sockets {
  /**
   * Takes over one end of a `socketPair` of streams, whose other end somebody was given: its `receive` looks at no sender, but a descriptor
   * that comes along is foreign here too.
   * @throws AgentError ERR_NATIVE; then it stays the caller's
   */
  openStream(fd: number): NativeStream;
  /**
   * A new socket at `path`, which everybody may connect to (mode 0666).
   * @param path 1 to 107 bytes; nothing may be there
   * @throws AgentError ERR_NATIVE
   */
  listen(path: string): number;
  /**
   * Takes over a listening descriptor: one of `listen`, or an inherited one. A connection that nobody starts is closed when it is collected.
   * @throws AgentError ERR_NATIVE when it is not a Unix stream socket that listens; then it stays the caller's
   */
  accept(fd: number, onConnection: (stream: NativeStream, connector: Connector) => void): { close(): void };
}
