import { ByteReader, ByteWriter, copyBytes, equalBytes, putBytes, putU32, u32At, utf8 } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";
import { CALLS } from "./calls.ts";

export const MAX_OPTIONS = 4096;
export const MAX_BODY = 262_144;
/** For a peer that is refused: enough for every call that has no data to sign. */
export const MAX_STRANGER_BODY = 16_384;
const HEADER = 12;
const MAX_SIGNATURE = 32;
/** Room in advance, at most. */
const SPARE = 65_536;
const NOTHING = new Uint8Array(0);

/** One request as it came: `code` is the client's counter and is echoed in the reply. The body is to be wiped by whoever takes it. */
export interface Frame {
  readonly code: number;
  readonly body: Uint8Array;
}

/** The body of a request. `values` are the bytes after the signature. */
export interface CallBody {
  readonly call: number;
  readonly signature: string;
  readonly values: Uint8Array;
}

/** What the connections of one scope hold together in requests that are being received or answered. */
export class ReceiveMemory {
  #left: number;

  constructor(bytes: number) {
    this.#left = bytes;
  }

  /** @throws AgentError `ERR_RPC_MALFORMED` when there is not so much left */
  take(bytes: number): void {
    if (bytes > this.#left) {
      const fields = { expected: `at most ${this.#left} more bytes`, got: `${bytes}` };
      throw new AgentError("ERR_RPC_MALFORMED", "RPC requests in work", fields);
    }
    this.#left -= bytes;
  }

  give(bytes: number): void {
    this.#left += bytes;
  }
}

/**
 * Cuts a byte stream into the version byte and frames. Holds at most one frame and what came with its last chunk, and keeps no copy of what
 * was taken: an application may have sent a PIN.
 */
export class FrameSplitter {
  readonly #maxBody: number;
  readonly #memory: ReceiveMemory;
  #buffer: Uint8Array = NOTHING;
  #start = 0;
  #end = 0;

  constructor(maxBody = MAX_BODY, memory = new ReceiveMemory(Number.POSITIVE_INFINITY)) {
    this.#maxBody = maxBody;
    this.#memory = memory;
  }

  /**
   * Takes the chunk over.
   * @throws AgentError `ERR_RPC_MALFORMED` when the scope's connections hold too much already
   */
  push(chunk: Uint8Array): void {
    if (this.#start === this.#end) {
      this.#adopt(chunk);
      return;
    }
    if (this.#end + chunk.length > this.#buffer.length) this.#grow(chunk.length);
    this.#buffer.set(chunk, this.#end);
    this.#end += chunk.length;
    chunk.fill(0);
  }

  /** Drops what is held and gives the memory back. */
  close(): void {
    this.#start = this.#end;
    this.#replace(NOTHING);
  }

  /** Bytes that nobody has taken. */
  get length(): number {
    return this.#end - this.#start;
  }

  /** The first byte of the stream; null when nothing came yet. */
  version(): number | null {
    if (this.#start === this.#end) return null;
    this.#start += 1;
    return this.#buffer[this.#start - 1] ?? null;
  }

  /**
   * The next whole frame; null when more bytes are needed. The lengths are judged as soon as the header is there.
   * @throws AgentError `ERR_RPC_MALFORMED`
   */
  next(): Frame | null {
    if (this.#start === this.#end) this.#drop();
    const have = this.#end - this.#start;
    if (have < HEADER) return null;
    const code = u32At(this.#buffer, this.#start);
    const options = u32At(this.#buffer, this.#start + 4);
    const body = u32At(this.#buffer, this.#start + 8);
    if (code === 0) throw new AgentError("ERR_RPC_MALFORMED", "RPC header code", { expected: "not 0", got: "0" });
    limit("options length", options, MAX_OPTIONS);
    limit("body length", body, this.#maxBody);
    const whole = HEADER + options + body;
    if (have < whole) return null;
    this.#start += whole;
    const taken = copyBytes(this.#buffer, this.#start - body, this.#start);
    this.#buffer.fill(0, this.#start - body, this.#start);
    return { code, body: taken };
  }

  /** The usual case: a chunk is what a whole request came in. */
  #adopt(chunk: Uint8Array): void {
    this.#drop();
    this.#memory.take(chunk.length);
    this.#buffer = chunk;
    this.#end = chunk.length;
  }

  /** With spare room, so that a stream of single bytes costs linear work. */
  #grow(more: number): void {
    const needed = this.#end - this.#start + more;
    this.#replace(new Uint8Array(needed + Math.min(needed, SPARE)));
  }

  #drop(): void {
    if (this.#buffer.length > 0) this.#replace(NOTHING);
    this.#start = this.#end = 0;
  }

  #replace(buffer: Uint8Array): void {
    this.#memory.take(buffer.length);
    this.#memory.give(this.#buffer.length);
    buffer.set(this.#buffer.subarray(this.#start, this.#end));
    this.#buffer.fill(0, this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
    this.#buffer = buffer;
  }
}

/** Reads `u32 call | u32 signature length | signature`, leaving the arguments unread. */
export function parseCallBody(body: Uint8Array): CallBody {
  const reader = new ByteReader(body, "RPC body");
  const call = reader.u32("call");
  const signature = textOf(reader.sized32("signature", MAX_SIGNATURE), CALLS.get(call)?.request ?? "");
  return { call, signature, values: body.subarray(reader.offset) };
}

/** `expected` itself when the bytes are its: to make a text of them costs more than to compare. */
function textOf(bytes: Uint8Array, expected: string): string {
  return equalBytes(bytes, lettersOf(expected)) ? expected : String.fromCharCode(...bytes);
}

/** There are as many signatures as kinds of replies. */
const LETTERS = new Map<string, Uint8Array>();

function lettersOf(signature: string): Uint8Array {
  const known = LETTERS.get(signature);
  if (known !== undefined) return known;
  const letters = utf8(signature);
  LETTERS.set(signature, letters);
  return letters;
}

/** A successful reply: the response signature of the call, then the values. Written in place: there is one for every request. */
export function encodeReply(code: number, call: number, signature: string, values: Uint8Array): Uint8Array {
  const letters = lettersOf(signature);
  const reply = new Uint8Array(HEADER + 8 + letters.length + values.length);
  putU32(reply, 0, code);
  putU32(reply, 8, reply.length - HEADER);
  putU32(reply, HEADER, call);
  putU32(reply, HEADER + 4, letters.length);
  putBytes(reply, HEADER + 8, letters);
  putBytes(reply, HEADER + 8 + letters.length, values);
  return reply;
}

/**
 * A successful reply of one byte array that is a secret. It is moved: afterwards `secret` is wiped, and the bytes stand in the reply
 * and nowhere else.
 */
export function encodeSecretReply(code: number, call: number, signature: string, secret: Uint8Array): Uint8Array {
  const values = new ByteWriter().u8(1).sized32(new Uint8Array(secret.length)).finish();
  const reply = encodeReply(code, call, signature, values);
  reply.set(secret, reply.length - secret.length);
  secret.fill(0);
  return reply;
}

/** The ERROR reply, for every call that fails. `rv` is not CKR_OK. */
export function encodeErrorReply(code: number, rv: bigint): Uint8Array {
  return encodeReply(code, 0, "u", new ByteWriter().u64(rv).finish());
}

function limit(field: string, got: number, cap: number): void {
  if (got > cap) {
    throw new AgentError("ERR_RPC_MALFORMED", `RPC header ${field}`, { expected: `at most ${cap}`, got: `${got}` });
  }
}
