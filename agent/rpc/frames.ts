import { ByteReader, utf8 } from "../../policy/index.ts";
import { ByteQueue } from "../byte-queue.ts";
import { GREETING, HEAD, MAGIC, MAX_LENGTH, VERSION } from "../client/protocol.ts";
import { AgentError } from "../errors.ts";

export { MAX_LENGTH };
/** For a peer that is refused: enough for every request that has no message to sign. */
export const MAX_STRANGER_LENGTH = 16_384;
const LENGTH = 4;

/** One request as it came. */
export interface Frame {
  readonly id: number;
  readonly op: number;
  readonly payload: Uint8Array;
  /** What it takes of the scope's memory for requests, until it is answered. */
  readonly size: number;
}

/** What the connections of one scope hold together in requests that are received or in work. `take` throws when there is not so much left. */
export interface RequestMemory {
  take(bytes: number): void;
  give(bytes: number): void;
}

/** What answers the requests of one connection. */
export interface Requests {
  /** HELLO, or its refusal. */
  greet(): Promise<void>;
  /** Resolves when the next request may be read. Rejects for what breaks the protocol, or when the peer is gone. */
  take(frame: Frame): Promise<void>;
  /** Resolves when everything is answered. */
  settled(): Promise<void>;
}

/** Cuts a client's bytes into its greeting and its requests. Holds at most one unfinished request and what came with its last piece. */
export class RequestSplitter {
  readonly #queue = new ByteQueue();
  readonly #longest: number;
  readonly #memory: RequestMemory;
  /** `length` of the request that is being received. */
  #length: number | null = null;
  /** What is taken of the memory: for what the queue is, or will at least be. */
  #taken = 0;

  /** @param longest the highest `length` */
  constructor(longest: number, memory: RequestMemory) {
    this.#longest = longest;
    this.#memory = memory;
  }

  /** @throws AgentError `ERR_RPC_MALFORMED` when the scope's connections hold too much already */
  push(piece: Uint8Array): void {
    this.#queue.push(piece);
    this.#account();
  }

  /** Bytes that nobody has taken. */
  get length(): number {
    return this.#queue.length;
  }

  /**
   * The version that the client offers; null when more bytes are needed.
   * @throws AgentError `ERR_RPC_MALFORMED`
   */
  greeting(): number | null {
    if (this.#queue.length < GREETING) return null;
    const reader = new ByteReader(this.#queue.take(GREETING), "greeting");
    const magic = String.fromCharCode(...reader.bytes(MAGIC.length, "magic"));
    const version = reader.u8("version");
    if (magic !== MAGIC) throw malformed("magic", MAGIC, "another");
    if (version === 0) throw malformed("version", "at least 1", "0");
    return version;
  }

  /**
   * The next whole request; null when more bytes are needed. The length is judged as soon as it is there. Whoever takes the request
   * gives its `size` back to the memory.
   * @throws AgentError `ERR_RPC_MALFORMED`
   */
  next(): Frame | null {
    if (this.#length === null) {
      this.#length = this.#readLength();
      this.#account();
    }
    if (this.#length === null || this.#queue.length < LENGTH + this.#length) return null;
    const size = this.#length;
    this.#memory.take(size);
    const reader = new ByteReader(this.#queue.take(LENGTH + size), "request");
    reader.u32("length");
    const id = reader.u32("id");
    const op = reader.u8("op");
    const payload = reader.bytes(reader.remaining, "payload");
    this.#length = null;
    this.#account();
    if (id !== 0) return { id, op, payload, size };
    this.#memory.give(size);
    throw malformed("id", "not 0", "0");
  }

  /** Drops what is unfinished, and gives back what it holds. */
  close(): void {
    this.#queue.clear();
    this.#length = null;
    this.#account();
  }

  #account(): void {
    const needed = Math.max(this.#queue.size, this.#length ?? 0);
    if (needed > this.#taken) this.#memory.take(needed - this.#taken);
    else this.#memory.give(this.#taken - needed);
    this.#taken = needed;
  }

  #readLength(): number | null {
    if (this.#queue.length < LENGTH) return null;
    const length = new ByteReader(this.#queue.peek(LENGTH), "request").u32("length");
    if (length < HEAD || length > this.#longest) throw malformed("length", `${HEAD} to ${this.#longest}`, `${length}`);
    this.#length = length;
    this.#account();
    return length;
  }
}

/** What the agent sends first: the version that is spoken from here on. */
export function encodeGreeting(offered: number): Uint8Array {
  return Uint8Array.of(...utf8(MAGIC), Math.min(offered, VERSION));
}

/** @param reason 0 for a result, else a number of `REASONS` */
export function encodeReply(id: number, reason: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(LENGTH + HEAD + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, HEAD + payload.length);
  view.setUint32(LENGTH, id);
  view.setUint8(LENGTH + 4, reason);
  bytes.set(payload, LENGTH + HEAD);
  return bytes;
}

export function malformed(field: string, expected: string, got: string): AgentError {
  return new AgentError("ERR_RPC_MALFORMED", `native RPC ${field}`, { expected, got });
}
