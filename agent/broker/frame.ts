import { ByteReader, ByteWriter, utf8 } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";

export const MAX_OPTIONS = 4096;
export const MAX_BODY = 262_144;
const HEADER = 12;
const MAX_SIGNATURE = 32;

/** One request as it came: `code` is the client's counter and is echoed in the reply. */
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

/** Cuts a byte stream into the version byte and frames. Holds at most one frame and what came with its last chunk. */
export class FrameSplitter {
  #buffer = new Uint8Array(HEADER);
  #start = 0;
  #end = 0;

  push(chunk: Uint8Array): void {
    if (this.#end + chunk.length > this.#buffer.length) this.#grow(chunk.length);
    this.#buffer.set(chunk, this.#end);
    this.#end += chunk.length;
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
    const have = this.#buffer.subarray(this.#start, this.#end);
    if (have.length < HEADER) return null;
    const header = new ByteReader(have.slice(0, HEADER), "RPC header");
    const code = header.u32("code");
    const options = header.u32("options length");
    const body = header.u32("body length");
    if (code === 0) throw new AgentError("ERR_RPC_MALFORMED", "RPC header code", { expected: "not 0", got: "0" });
    limit("options length", options, MAX_OPTIONS);
    limit("body length", body, MAX_BODY);
    const whole = HEADER + options + body;
    if (have.length < whole) return null;
    this.#start += whole;
    return { code, body: have.slice(HEADER + options, whole) };
  }

  /** Doubles, so that a stream of single bytes costs linear work. */
  #grow(more: number): void {
    const held = this.#end - this.#start;
    const needed = held + more;
    const target = needed * 2 > this.#buffer.length ? new Uint8Array(needed * 2) : this.#buffer;
    target.set(this.#buffer.subarray(this.#start, this.#end));
    this.#buffer = target;
    this.#start = 0;
    this.#end = held;
  }
}

/** Reads `u32 call | u32 signature length | signature`, leaving the arguments unread. */
export function parseCallBody(body: Uint8Array): CallBody {
  const reader = new ByteReader(body, "RPC body");
  const call = reader.u32("call");
  const signature = String.fromCharCode(...reader.sized32("signature", MAX_SIGNATURE));
  return { call, signature, values: reader.bytes(reader.remaining, "arguments") };
}

/** A successful reply: the response signature of the call, then the values. */
export function encodeReply(code: number, call: number, signature: string, values: Uint8Array): Uint8Array {
  const body = new ByteWriter().u32(call).sized32(utf8(signature)).bytes(values).finish();
  return new ByteWriter().u32(code).u32(0).u32(body.length).bytes(body).finish();
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
