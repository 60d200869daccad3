import { PolicyError } from "./errors.ts";

/**
 * The one way bytes from outside are read: every access is bounds-checked, every length has a cap, and `end`
 * refuses trailing data. Integers are big-endian unless the method says `le`.
 */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #what: string;
  #offset = 0;

  /** @param what names the structure in error messages, e.g. `TPMS_ATTEST` */
  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes;
    this.#what = what;
  }

  get offset(): number {
    return this.#offset;
  }

  get remaining(): number {
    return this.#bytes.length - this.#offset;
  }

  u8(field: string): number {
    return byteAt(this.#bytes, this.#take(1, field));
  }
  u16(field: string): number {
    const at = this.#take(2, field);
    return byteAt(this.#bytes, at) * 0x100 + byteAt(this.#bytes, at + 1);
  }
  u32(field: string): number {
    return u32At(this.#bytes, this.#take(4, field));
  }
  u64(field: string): bigint {
    const at = this.#take(8, field);
    return u64Of(u32At(this.#bytes, at), u32At(this.#bytes, at + 4));
  }
  u16le(field: string): number {
    const at = this.#take(2, field);
    return byteAt(this.#bytes, at) + byteAt(this.#bytes, at + 1) * 0x100;
  }
  u32le(field: string): number {
    return u32leAt(this.#bytes, this.#take(4, field));
  }
  u64le(field: string): bigint {
    const at = this.#take(8, field);
    return u64Of(u32leAt(this.#bytes, at + 4), u32leAt(this.#bytes, at));
  }

  /** `length` bytes, as a copy: what was parsed does not change when the caller's buffer does. */
  bytes(length: number, field: string): Uint8Array {
    const start = this.#take(length, field);
    return copyBytes(this.#bytes, start, start + length);
  }

  /** A byte string with a u16 length in front, at most `cap` bytes. */
  sized16(field: string, cap: number): Uint8Array {
    return this.#sized(this.u16(field), field, cap);
  }

  /** A byte string with a u32 length in front, at most `cap` bytes. */
  sized32(field: string, cap: number): Uint8Array {
    return this.#sized(this.u32(field), field, cap);
  }

  /** Refuses bytes after the end of the structure. */
  end(): void {
    if (this.remaining !== 0) {
      throw new PolicyError("ERR_BYTES_TRAILING", `${this.#what}: end`, {
        expected: "no trailing bytes",
        got: `${this.remaining}`,
      });
    }
  }

  #sized(length: number, field: string, cap: number): Uint8Array {
    if (length > cap) {
      throw new PolicyError("ERR_BYTES_VALUE", `${this.#what} ${field}: length`, {
        expected: `at most ${cap} bytes`,
        got: `${length}`,
      });
    }
    return this.bytes(length, field);
  }

  #take(length: number, field: string): number {
    if (!Number.isSafeInteger(length) || length < 0 || length > this.remaining) {
      throw new PolicyError("ERR_BYTES_TRUNCATED", `${this.#what} ${field}`, {
        expected: `${length} bytes at offset ${this.#offset}`,
        got: `${this.remaining}`,
      });
    }
    const start = this.#offset;
    this.#offset += length;
    return start;
  }
}

/** Of a place that was checked. No DataView: making one costs more than all that most readers read. */
function byteAt(bytes: Uint8Array, at: number): number {
  return bytes[at] as number; // inside the array
}

/** Big-endian, at a place that was checked. */
export function u32At(bytes: Uint8Array, at: number): number {
  const low = (byteAt(bytes, at + 1) << 16) | (byteAt(bytes, at + 2) << 8) | byteAt(bytes, at + 3);
  return byteAt(bytes, at) * 0x100_0000 + low;
}

function u32leAt(bytes: Uint8Array, at: number): number {
  const low = (byteAt(bytes, at + 2) << 16) | (byteAt(bytes, at + 1) << 8) | byteAt(bytes, at);
  return byteAt(bytes, at + 3) * 0x100_0000 + low;
}

function u64Of(high: number, low: number): bigint {
  return high === 0 ? BigInt(low) : (BigInt(high) << 32n) | BigInt(low);
}

/** From here on a call of the platform's is faster than a loop. */
const LONG = 64;

/** The bytes from `start` to `end`, as a copy. Both lie in the array. */
export function copyBytes(bytes: Uint8Array, start: number, end: number): Uint8Array<ArrayBuffer> {
  const copy = new Uint8Array(end - start);
  if (copy.length >= LONG) copy.set(bytes.subarray(start, end));
  else for (let index = 0; index < copy.length; index++) copy[index] = byteAt(bytes, start + index);
  return copy;
}

type Part = Uint8Array | number | bigint;

/** Builds what `ByteReader` reads. Big-endian. The bytes it is given are copied once, by `finish`. */
export class ByteWriter {
  /** Integers by their value, with their size in the same place of `#sizes`; bytes with -1. */
  readonly #parts: Part[] = [];
  readonly #sizes: number[] = [];
  #length = 0;

  u8(value: number): this {
    return this.#integer(value, 1);
  }
  u16(value: number): this {
    return this.#integer(value, 2);
  }
  u32(value: number): this {
    return this.#integer(value, 4);
  }
  u64(value: bigint): this {
    return this.#integer(value, 8);
  }
  bytes(value: Uint8Array): this {
    this.#length += value.length;
    this.#parts.push(value);
    this.#sizes.push(-1);
    return this;
  }
  /** A TPM2B: u16 length, then the bytes. */
  sized16(value: Uint8Array): this {
    if (value.length > 0xffff) throw new TypeError(`sized16: ${value.length} bytes do not fit a u16 length`);
    return this.u16(value.length).bytes(value);
  }
  sized32(value: Uint8Array): this {
    return this.u32(value.length).bytes(value);
  }
  finish(): Uint8Array<ArrayBuffer> {
    const whole = new Uint8Array(this.#length);
    let at = 0;
    for (let index = 0; index < this.#parts.length; index++)
      at = putPart(whole, at, this.#parts[index] as Part, this.#sizes[index] as number);
    return whole;
  }

  #integer(value: number | bigint, size: number): this {
    this.#length += size;
    this.#parts.push(value);
    this.#sizes.push(size);
    return this;
  }
}

/** Gives the place behind it. */
function putPart(whole: Uint8Array, at: number, part: Part, size: number): number {
  if (typeof part === "number") {
    for (let index = at + size - 1, rest = part; index >= at; index--, rest = Math.floor(rest / 0x100))
      whole[index] = rest & 0xff;
    return at + size;
  }
  if (typeof part === "bigint") {
    putPart(whole, at, Number(BigInt.asUintN(32, part >> 32n)), 4);
    return putPart(whole, at + 4, Number(BigInt.asUintN(32, part)), 4);
  }
  putBytes(whole, at, part);
  return at + part.length;
}

/** Big-endian, at a place that is inside the array. */
export function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** At a place where there is room for all of it. */
export function putBytes(whole: Uint8Array, at: number, part: Uint8Array): void {
  if (part.length >= LONG) whole.set(part, at);
  else for (let index = 0; index < part.length; index++) whole[at + index] = byteAt(part, index);
}

export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  return joinBytes(parts);
}

/** For any number of parts: an argument list of some ten thousand overflows the stack. */
export function joinBytes(parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    putBytes(whole, offset, part);
    offset += part.length;
  }
  return whole;
}

/** Compares public values. Not constant in time: never for secrets. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let index = 0; index < a.length; index++) if (a[index] !== b[index]) return false;
  return true;
}

/** Bytes as text. */
export interface Texts {
  toHex(bytes: Uint8Array): string;
  toBase64(bytes: Uint8Array): string;
  /** May throw, or take what is not canonical: `fromBase64` checks. */
  readBase64(text: string): Uint8Array;
}

const hexOfByte: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/** By what every platform has. */
export const plainTexts: Texts = {
  toHex: (bytes) => {
    let text = "";
    for (const byte of bytes) text += hexOfByte[byte] ?? "";
    return text;
  },
  toBase64: (bytes) => {
    let text = "";
    for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
    return btoa(text);
  },
  readBase64: (text) => {
    const decoded = atob(text);
    const bytes = new Uint8Array(decoded.length);
    for (let index = 0; index < decoded.length; index++) bytes[index] = decoded.charCodeAt(index);
    return bytes;
  },
};

/** What newer platforms have themselves (ECMAScript 2026): Node from 25 on, not yet 20 and 22. */
interface NativeTexts {
  readonly fromBase64?: (text: string, options: { readonly lastChunkHandling: "strict" }) => Uint8Array;
  readonly prototype: { readonly toHex?: () => string; readonly toBase64?: () => string };
}

/** The platform's own where it has them, else the plain ones: the same texts. Decided here only. */
export function openTexts({ fromBase64: read, prototype: { toHex: hex, toBase64: base64 } }: NativeTexts): Texts {
  if (read === undefined || hex === undefined || base64 === undefined) return plainTexts;
  return {
    toHex: (bytes) => hex.call(bytes),
    toBase64: (bytes) => base64.call(bytes),
    readBase64: (text) => read(text, { lastChunkHandling: "strict" }),
  };
}

const texts = openTexts(Uint8Array as unknown as NativeTexts);

export function toHex(bytes: Uint8Array): string {
  return texts.toHex(bytes);
}

/** Lower- or upper-case hexadecimal, even length. */
export function fromHex(text: string, field = "hex"): Uint8Array {
  if (text.length % 2 !== 0 || !/^[0-9a-fA-F]*$/.test(text)) {
    throw new PolicyError("ERR_BYTES_VALUE", field, {
      expected: "an even number of hexadecimal digits",
      got: `${text.length} characters`,
    });
  }
  const bytes = new Uint8Array(text.length / 2);
  for (let index = 0; index < bytes.length; index++)
    bytes[index] = (hexDigit(text, 2 * index) << 4) | hexDigit(text, 2 * index + 1);
  return bytes;
}

/** Of a character that is known to be a digit. */
function hexDigit(text: string, at: number): number {
  const code = text.charCodeAt(at);
  return (code & 0xf) + (code > 0x39 ? 9 : 0);
}

const utf8Encoder = new TextEncoder();

export function utf8(text: string): Uint8Array {
  return utf8Encoder.encode(text);
}

export function toBase64(bytes: Uint8Array): string {
  return texts.toBase64(bytes);
}

/** Standard alphabet with padding; anything that does not encode back to itself is refused. */
export function fromBase64(text: string, field = "base64"): Uint8Array {
  try {
    const bytes = texts.readBase64(text);
    if (texts.toBase64(bytes) === text) return bytes;
  } catch {
    // falls through to the one error below
  }
  throw new PolicyError("ERR_BYTES_VALUE", field, { expected: "canonical base64", got: `${text.length} characters` });
}

/** RFC 7515 section 2: the alphabet of RFC 4648 section 5, no padding. */
export function toBase64Url(bytes: Uint8Array): string {
  return toBase64(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Without padding; anything that does not encode back to itself is refused. */
export function fromBase64Url(text: string, field = "base64url"): Uint8Array {
  if (!/^[A-Za-z0-9_-]*$/.test(text)) {
    throw new PolicyError("ERR_BYTES_VALUE", field, {
      expected: "canonical base64url",
      got: `${text.length} characters`,
    });
  }
  const padding = "=".repeat((4 - (text.length % 4)) % 4);
  return fromBase64(text.replaceAll("-", "+").replaceAll("_", "/") + padding, field);
}
