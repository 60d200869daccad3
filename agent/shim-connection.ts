import { ByteReader, ByteWriter } from "../policy/index.ts";
import { ByteQueue } from "./byte-queue.ts";
import { AgentError } from "./errors.ts";
import { type NativeStream, STREAM_EVENTS, WOULD_BLOCK } from "./native/index.ts";
import { MAX_FRAME } from "./shim-replies.ts";

const REPLY_BIT = 0x80;
const MAX_WAITING = 1024;
/** Bytes of one read. One buffer for all connections, which keeps no copy: a reply may be a plaintext. */
const BUFFER = new Uint8Array(65_536);

interface Waiting {
  readonly op: number;
  readonly done: (reply: Reply) => void;
  readonly failed: (error: AgentError) => void;
}

export interface Reply {
  /** CK_RV. */
  readonly rv: bigint;
  readonly payload: Uint8Array;
}

export interface Frame extends Reply {
  readonly id: number;
  readonly op: number;
}

/**
 * Reads what follows a frame's length field.
 *
 * @throws PolicyError ERR_BYTES_TRUNCATED when it is shorter than a reply's header; AgentError ERR_SHIM_PROTOCOL when it
 * is no reply
 */
export function parseFrame(bytes: Uint8Array): Frame {
  const reader = new ByteReader(bytes, "shim reply");
  const id = reader.u32("id");
  const op = reader.u8("op");
  const rv = reader.u64("rv");
  if ((op & REPLY_BIT) === 0) {
    throw new AgentError("ERR_SHIM_PROTOCOL", "shim reply op", { expected: "bit 7 set", got: `${op}` });
  }
  return { id, op: op & ~REPLY_BIT, rv, payload: reader.bytes(reader.remaining, "payload") };
}

/** Request ids are 32 bits and never 0; a shim that has used them all begins again. */
const LAST_ID = 0xffff_ffff;

/**
 * The framed stream to a shim (SHIM.md). The shim is not trusted: bytes that nobody waits for, a frame that is too long, that
 * answers nothing or another op, or a late answer closes the connection, and every request that waits fails. Each request is
 * settled once.
 *
 * A shim works on one request after the other, so only the oldest one has a clock, which starts when it becomes the oldest: many callers
 * at once make no shim late that answers each of them in time.
 */
export class ShimConnection {
  readonly #stream: NativeStream;
  readonly #timeoutMs: number;
  /** Oldest first. */
  readonly #waiting = new Map<number, Waiting>();
  readonly #onClosed: (error: AgentError) => void;
  readonly #buffered = new ByteQueue();
  #outgoing = new ByteWriter();
  /** Frames that the socket had no room for. */
  #unsent: Uint8Array[] = [];
  #sending = false;
  #lastId: number;
  /** The oldest request's. */
  #timer: NodeJS.Timeout | null = null;
  /** When it became the oldest. */
  #since = 0;
  #error: AgentError | null = null;

  /**
   * Takes the stream over.
   * @param lastId id of the request before the first
   */
  constructor(stream: NativeStream, timeoutMs: number, onClosed: (error: AgentError) => void, lastId = 0) {
    this.#timeoutMs = timeoutMs;
    this.#lastId = lastId;
    this.#onClosed = onClosed;
    this.#stream = stream;
    stream.start((events) => this.#ready(events));
  }

  /** Sends one request under an id of its own. Rejects with AgentError ERR_SHIM_GONE, _TIMEOUT or _PROTOCOL. */
  request(op: number, payload: Uint8Array): Promise<Reply> {
    if (payload.length + 5 > MAX_FRAME) throw new TypeError(`shim request: ${payload.length} bytes do not fit a frame`);
    if (this.#error !== null) return Promise.reject(this.#error);
    if (this.#waiting.size >= MAX_WAITING) {
      return Promise.reject(
        new AgentError("ERR_SHIM_TIMEOUT", "shim requests", { expected: `at most ${MAX_WAITING} waiting` }),
      );
    }
    this.#lastId = this.#lastId === LAST_ID ? 1 : this.#lastId + 1;
    const id = this.#lastId;
    this.#outgoing
      .u32(payload.length + 5)
      .u32(id)
      .u8(op)
      .bytes(payload);
    return new Promise((done, failed) => {
      this.#waiting.set(id, { op, done, failed });
      if (this.#waiting.size === 1) this.#startClock();
      if (this.#sending) return;
      this.#sending = true;
      process.nextTick(() => this.#send());
    });
  }

  /** What was asked for in one turn goes out in one write. */
  #send(): void {
    this.#unsent.push(this.#outgoing.finish());
    this.#outgoing = new ByteWriter();
    this.#sending = false;
    if (this.#unsent.length === 1) this.#flush();
  }

  #flush(): void {
    try {
      for (let first = this.#unsent[0]; first !== undefined && this.#error === null; first = this.#unsent[0]) {
        const sent = this.#stream.send(first, 0);
        if (sent < first.length) {
          if (sent !== WOULD_BLOCK) this.#unsent[0] = first.subarray(sent);
          this.#stream.watchWritable(true);
          return;
        }
        this.#unsent.shift();
      }
    } catch (cause) {
      this.#read(); // what it had answered before it ended
      this.close(new AgentError("ERR_SHIM_GONE", "shim connection: failed", { cause }));
    }
  }

  /** Ends the connection, and with it the shim. The first reason stays. */
  close(error: AgentError): void {
    if (this.#error !== null) return;
    this.#error = error;
    this.#stream.close();
    this.#unsent = [];
    if (this.#timer !== null) clearTimeout(this.#timer);
    for (const { failed } of this.#waiting.values()) failed(error);
    this.#waiting.clear();
    this.#onClosed(error);
  }

  /** For the request that is the oldest now, if there is one. */
  #startClock(): void {
    this.#since = performance.now();
    // One timer at a time, which looks when it is up: to set one anew for each request costs as much as to send it.
    if (this.#timer === null && this.#waiting.size > 0) this.#setTimer(this.#timeoutMs);
  }

  #setTimer(milliseconds: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = null;
      const left = this.#since + this.#timeoutMs - performance.now();
      if (this.#waiting.size === 0) return;
      if (left > 0) this.#setTimer(Math.ceil(left));
      else this.#timeIsUp();
    }, milliseconds);
  }

  /** Timers run before sockets are read: an answer may lie there that came in time, while the agent was busy elsewhere. */
  #timeIsUp(): void {
    const [oldest] = this.#waiting.keys();
    setImmediate(() => {
      const [now] = this.#waiting.keys();
      if (this.#error === null && now !== undefined && now === oldest) this.#late();
    });
  }

  #late(): void {
    const [oldest] = this.#waiting.values();
    const expected = `an answer within ${this.#timeoutMs} ms`;
    this.close(new AgentError("ERR_SHIM_TIMEOUT", `shim op ${oldest?.op ?? 0}`, { expected, got: "none" }));
  }

  #ready(events: number): void {
    if ((events & STREAM_EVENTS.writable) !== 0 && this.#unsent.length > 0) {
      this.#stream.watchWritable(false);
      this.#flush();
    }
    if ((events & STREAM_EVENTS.readable) !== 0) this.#read();
  }

  /** All that is there, which is no more than was asked for: other bytes close the connection. */
  #read(): void {
    try {
      while (this.#error === null) {
        const length = this.#stream.receive(BUFFER);
        if (length === WOULD_BLOCK) return;
        if (length === 0) this.close(new AgentError("ERR_SHIM_GONE", "shim connection: closed"));
        const bytes = BUFFER.subarray(0, length);
        this.#receive(bytes);
        bytes.fill(0);
        if (!this.#stream.mayHaveMore) return;
      }
    } catch (cause) {
      this.close(new AgentError("ERR_SHIM_GONE", "shim connection: failed", { cause }));
    }
  }

  #receive(bytes: Uint8Array): void {
    if (this.#error !== null) return;
    try {
      this.#buffered.push(bytes);
      while (this.#error === null && this.#buffered.length > 0) {
        if (this.#waiting.size === 0) {
          throw new AgentError("ERR_SHIM_PROTOCOL", "shim reply", { expected: "none: no request waits", got: "bytes" });
        }
        const frame = this.#takeFrame();
        if (frame === null) return;
        this.#deliver(parseFrame(frame));
      }
    } catch (cause) {
      this.close(
        cause instanceof AgentError ? cause : new AgentError("ERR_SHIM_PROTOCOL", "shim reply: malformed", { cause }),
      );
    }
  }

  /** The next complete frame. Its length is judged before its bytes are waited for. */
  #takeFrame(): Uint8Array | null {
    if (this.#buffered.length < 4) return null;
    const length = new ByteReader(this.#buffered.peek(4), "shim reply").u32("length");
    if (length > MAX_FRAME) {
      throw new AgentError("ERR_SHIM_PROTOCOL", "shim reply length", {
        expected: `at most ${MAX_FRAME}`,
        got: `${length}`,
      });
    }
    return this.#buffered.length < 4 + length ? null : this.#buffered.take(4 + length).subarray(4);
  }

  #deliver(frame: Frame): void {
    const waiting = this.#waiting.get(frame.id);
    if (waiting === undefined || waiting.op !== frame.op) {
      throw new AgentError("ERR_SHIM_PROTOCOL", "shim reply", {
        expected: "the id and op of a waiting request",
        got: `op ${frame.op}`,
      });
    }
    const [oldest] = this.#waiting.keys();
    this.#waiting.delete(frame.id);
    // Answers to younger ones are no sign of life for it: a shim could leave it for ever.
    if (frame.id === oldest) this.#startClock();
    waiting.done(frame);
  }
}
