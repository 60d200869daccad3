import { TpmFormatError } from "./errors.ts";

/** Reads one structure, big endian. Throws TpmFormatError where it is too short, and at `end` where it is too long. */
export class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #structure: string;
  #offset = 0;

  constructor(bytes: Uint8Array, structure: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#structure = structure;
  }
  u8(): number {
    return this.#view.getUint8(this.#advance(1));
  }
  u16(): number {
    return this.#view.getUint16(this.#advance(2));
  }
  u32(): number {
    return this.#view.getUint32(this.#advance(4));
  }
  u64(): bigint {
    return this.#view.getBigUint64(this.#advance(8));
  }
  /** A copy. */
  bytes(size: number): Uint8Array {
    const start = this.#advance(size);
    return this.#bytes.slice(start, start + size);
  }
  end(): void {
    const left = this.#bytes.length - this.#offset;
    if (left > 0) throw this.malformed(`expected its end at ${this.#offset}, got ${left} more bytes`);
  }
  malformed(text: string): TpmFormatError {
    return new TpmFormatError(this.#structure, text);
  }

  #advance(size: number): number {
    const start = this.#offset;
    const left = this.#bytes.length - start;
    if (size > left) throw this.malformed(`expected ${size} bytes at ${start}, got ${left}`);
    this.#offset = start + size;
    return start;
  }
}

/** `value` itself. Throws a TypeError unless it is an integer from 0 to `max`. */
export function unsigned(name: string, value: number, max: number): number {
  if (!Number.isInteger(value) || value < 0 || value > max)
    throw new TypeError(`${name}: expected 0 to ${max}, got ${value}`);
  return value;
}

export const U16_MAX = 0xffff;
export const U32_MAX = 0xffffffff;
