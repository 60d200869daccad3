import { AgentError } from "../errors.ts";
import { CONNECTOR_DIED, type NativeStream, STREAM_EVENTS, WOULD_BLOCK } from "../native/index.ts";

/** One connection as a door sees it. */
export interface Channel {
  /**
   * Pieces as they arrive, each the reader's own. Every one was sent by the process that connected; one that was not, or that carries
   * descriptors, ends it with AgentError ERR_FOREIGN_SENDER. Nothing is read that is not asked for. One reader at a time.
   */
  readonly chunks: AsyncIterable<Uint8Array>;
  /**
   * Once, between the greeting and its reply: the peer has sent nothing else so far. By then it has been identified, so every byte of a
   * request is one that was sent afterwards, and not by the program that called exec before anybody looked.
   *
   * @param more bytes beyond the greeting that were read already
   * @throws AgentError `ERR_FOREIGN_SENDER` when there are any: the connection is over, and it is recorded
   */
  endGreeting(more: number): void;
  /** As {@link NativeStream.takeLate}: for a peer that waits for each answer. */
  takeLate(): void;
  /**
   * Resolves when the kernel has the bytes (a slow reader is waited for). Rejects when the peer is gone. The bytes may be neither changed
   * nor wiped before. Who reads them is not established: any process that the peer lets have its socket does.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** Sends what was written, and no more. What the peer still sends can be read. */
  end(): void;
  /** Gives everything up at once. */
  destroy(): void;
  readonly destroyed: boolean;
}

/** What whoever accepted the connection hears of it. */
export interface ChannelEvents {
  /** The connection is no more; called once. */
  closed(): void;
  /** It was ended because of who sends, or would send, on it. Called once, before `closed`. */
  foreign(error: AgentError): void;
}

/** Bytes of one read. One buffer for all connections: what was read is copied out before anything else is. */
const BUFFER = new Uint8Array(65_536);
const { readable, writable, died } = STREAM_EVENTS;
const MAX_PIECES = 16;
const DONE: IteratorResult<Uint8Array> = { done: true, value: undefined };
const TAKEN = Promise.resolve();

interface Write {
  readonly bytes: Uint8Array;
  from: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

interface Reader {
  readonly resolve: (result: IteratorResult<Uint8Array>) => void;
  readonly reject: (error: unknown) => void;
}

/** A {@link Channel} on a native stream. */
export class SocketChannel implements Channel {
  readonly chunks: AsyncIterable<Uint8Array> = { [Symbol.asyncIterator]: () => ({ next: () => this.#next() }) };
  readonly #stream: NativeStream;
  readonly #events: ChannelEvents;
  /** There may be something to read. */
  #readable = false;
  /** Pieces that were read without a turn of the event loop between them. */
  #pieces = 0;
  #held: Uint8Array | null = null;
  #reader: Reader | null = null;
  #failure: AgentError | null = null;
  #readEnded = false;
  #writes: Write[] = [];
  #finishing = false;
  #destroyed = false;

  constructor(stream: NativeStream, events: ChannelEvents) {
    this.#stream = stream;
    this.#events = events;
  }

  /**
   * Once, before anything else.
   * @throws AgentError `ERR_NATIVE` when the kernel does not watch the connection: it is to be destroyed
   */
  start(): void {
    this.#stream.start((ready) => this.#ready(ready));
  }

  get destroyed(): boolean {
    return this.#destroyed;
  }

  /** The first byte of what comes next, which stays unread; null at the end. */
  async peek(): Promise<number | null> {
    const result = await this.#next();
    if (result.done === true) return null;
    this.#held = result.value;
    return result.value[0] ?? null;
  }

  /** As {@link NativeStream.pidfd}; null also when the channel is destroyed. */
  pidfd(): number | null {
    return this.#destroyed ? null : this.#stream.pidfd();
  }

  /** Ends the connection because of who is at its other end. */
  refuse(error: AgentError): void {
    if (this.#destroyed) return;
    this.#events.foreign(error);
    this.#fail(error);
  }

  takeLate(): void {
    this.#stream.takeLate();
  }

  endGreeting(more: number): void {
    if (this.#destroyed) throw gone();
    const length = more > 0 ? more : this.#receiveNow();
    if (length === WOULD_BLOCK) return;
    if (length === 0) {
      this.#readEnded = true;
      return;
    }
    BUFFER.fill(0, 0, Math.max(0, length));
    if (length === CONNECTOR_DIED) this.#connectorDied();
    const fields = { expected: "no byte before its reply", got: "more" };
    const error = new AgentError("ERR_FOREIGN_SENDER", "after the greeting", fields);
    this.refuse(error);
    throw error;
  }

  write(bytes: Uint8Array): Promise<void> {
    if (this.#destroyed || this.#finishing) return Promise.reject(gone());
    try {
      const from = this.#writes.length === 0 ? this.#send(bytes, 0) : 0;
      if (from === bytes.length) return TAKEN;
      return new Promise((resolve, reject) => {
        this.#writes.push({ bytes, from, resolve, reject });
        if (this.#writes.length === 1) this.#stream.watchWritable(true);
      });
    } catch (error) {
      this.destroy();
      return Promise.reject(error);
    }
  }

  end(): void {
    if (this.#destroyed || this.#finishing) return;
    this.#finishing = true;
    this.#finish();
  }

  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#stream.close();
    this.#held?.fill(0);
    this.#held = null;
    this.#reader?.resolve(DONE);
    this.#reader = null;
    for (const { reject } of this.#writes.splice(0)) reject(gone());
    this.#events.closed();
  }

  /** All is written: say so, and when the peer has said so too it is over. */
  #finish(): void {
    if (!this.#finishing || this.#writes.length > 0) return;
    if (this.#readEnded) this.destroy();
    else this.#stream.end();
  }

  /** No async function: it is the signing path, and each promise more is a turn of the queue. */
  #next(): Promise<IteratorResult<Uint8Array>> {
    const held = this.#held;
    if (held !== null) {
      this.#held = null;
      return Promise.resolve({ done: false, value: held });
    }
    if (this.#failure !== null) return Promise.reject(this.#failure);
    if (this.#destroyed || this.#readEnded) return Promise.resolve(DONE);
    if (this.#reader !== null) return Promise.reject(new TypeError("channel: it has a reader already"));
    return new Promise((resolve, reject) => {
      this.#reader = { resolve, reject };
      // It came while nobody wanted it, and is not told again.
      if (this.#readable) this.#readSoon();
    });
  }

  #ready(events: number): void {
    if ((events & died) !== 0) this.#connectorDied();
    if ((events & readable) !== 0 && !this.#destroyed) {
      this.#readable = true;
      if (this.#reader !== null) this.#read();
    }
    // Only for what waits: an error of the socket is told as writable too, and asking anew would have it told again, without end.
    if ((events & writable) !== 0 && this.#writes.length > 0 && !this.#destroyed) this.#flush();
  }

  /** At once, but for a peer that goes on sending: others have their turn between so many pieces. */
  #readSoon(): void {
    this.#pieces += 1;
    if (this.#pieces <= MAX_PIECES) {
      this.#read();
      return;
    }
    setImmediate(() => {
      this.#pieces = 0;
      if (this.#reader !== null && !this.#destroyed) this.#read();
    });
  }

  #read(): void {
    try {
      this.#give(this.#stream.receive(BUFFER));
    } catch (error) {
      if (error instanceof AgentError && error.code === "ERR_FOREIGN_SENDER") this.refuse(error);
      else this.#fail(error);
    }
  }

  #receiveNow(): number {
    try {
      return this.#stream.receive(BUFFER);
    } catch (error) {
      if (error instanceof AgentError && error.code === "ERR_FOREIGN_SENDER") this.refuse(error);
      throw error;
    }
  }

  #give(length: number): void {
    if (length === CONNECTOR_DIED) this.#connectorDied();
    else if (length === WOULD_BLOCK) this.#waitForMore();
    else this.#giveBytes(length);
  }

  #waitForMore(): void {
    this.#readable = false;
    this.#pieces = 0;
  }

  #giveBytes(length: number): void {
    this.#readEnded = length === 0;
    if (!this.#stream.mayHaveMore) this.#waitForMore();
    const reader = this.#reader;
    this.#reader = null;
    reader?.resolve(this.#readEnded ? DONE : { done: false, value: taken(length) });
    if (this.#readEnded) this.#finish();
  }

  #fail(error: unknown): void {
    this.#failure = error instanceof AgentError ? error : gone();
    this.#reader?.reject(this.#failure);
    this.#reader = null;
    this.destroy();
  }

  /** What it has sent and nobody has read is dropped: no later byte can be told from that of a process with the same number. */
  #connectorDied(): void {
    if (this.#stream.isHeld()) {
      const fields = { expected: "the process that connected", got: "another one, after it had ended" };
      this.refuse(new AgentError("ERR_FOREIGN_SENDER", "socket holder", fields));
    } else this.destroy();
  }

  #flush(): void {
    try {
      for (let first = this.#writes[0]; first !== undefined; first = this.#writes[0]) {
        first.from += this.#send(first.bytes, first.from);
        if (first.from < first.bytes.length) return;
        this.#writes.shift();
        first.resolve();
      }
      this.#stream.watchWritable(false);
      this.#finish();
    } catch {
      this.destroy();
    }
  }

  #send(bytes: Uint8Array, from: number): number {
    const sent = this.#stream.send(bytes, from);
    return sent === WOULD_BLOCK ? 0 : sent;
  }
}

/** The buffer keeps no copy: a workload may have sent a PIN. */
function taken(length: number): Uint8Array {
  const value = BUFFER.slice(0, length);
  BUFFER.fill(0, 0, length);
  return value;
}

function gone(): AgentError {
  return new AgentError("ERR_NATIVE", "connection", { expected: "open", got: "closed" });
}
