import { protocolError } from "./errors.ts";

/** Reads what the agent sent; every method throws ClientError `ERR_CLIENT_PROTOCOL` for what is not there. Big-endian. */
export class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #offset = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2));
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4));
  }

  /** `s`: printable ASCII. */
  text(): string {
    const text = String.fromCharCode(...this.#copy(this.u8()));
    if (!/^[ -~]*$/.test(text)) throw protocolError("text: expected printable ASCII");
    return text;
  }

  /** `b`, as a copy. */
  bytes(): Uint8Array<ArrayBuffer> {
    return this.#copy(this.u32());
  }

  end(): void {
    const left = this.#bytes.length - this.#offset;
    if (left !== 0) throw protocolError(`expected no trailing bytes, got ${left}`);
  }

  #copy(length: number): Uint8Array<ArrayBuffer> {
    const start = this.#take(length);
    return Uint8Array.from(this.#bytes.subarray(start, start + length));
  }

  #take(length: number): number {
    const start = this.#offset;
    if (length > this.#bytes.length - start)
      throw protocolError(`expected ${length} bytes at ${start}, got ${this.#bytes.length - start}`);
    this.#offset += length;
    return start;
  }
}

export function u8(value: number): Uint8Array {
  return Uint8Array.of(value);
}

export function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}

/** `s` */
export function text(value: string): Uint8Array {
  if (!/^[ -~]{0,255}$/.test(value)) throw new TypeError("name: expected at most 255 characters of printable ASCII");
  return join(u8(value.length), new TextEncoder().encode(value));
}

/** `b` */
export function sized(bytes: Uint8Array): Uint8Array {
  return join(u32(bytes.length), bytes);
}

export function join(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
