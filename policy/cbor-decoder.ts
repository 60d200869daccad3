import { type CborKey, type CborLimits, type CborMap, type CborTagged, type CborValue, uccsTag } from "./cbor-value.ts";
import { PolicyError } from "./errors.ts";

/** In bytes. Up to this, characters made one by one cost less than a call of TextDecoder. */
const SHORT_TEXT = 16;
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * The one pass of `decodeCbor`. Hostile input may consist of the smallest items only, so an item allocates its own value and nothing
 * else: no view, no `bigint` and no call into the platform where a number or a short text will do. Keys are compared where they lie.
 */
export class CborDecoder {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #limits: CborLimits;
  #offset = 0;
  #items = 0;

  private constructor(bytes: Uint8Array, limits: CborLimits) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#limits = limits;
  }

  /** @throws PolicyError `ERR_CBOR_MALFORMED` */
  static decode(bytes: Uint8Array, limits: CborLimits): CborValue {
    if (bytes.length > limits.bytes) throw malformed(0, "size", `at most ${limits.bytes} bytes`, `${bytes.length}`);
    const decoder = new CborDecoder(bytes.slice(), limits);
    const value = decoder.#item(0);
    const trailing = decoder.#bytes.length - decoder.#offset;
    if (trailing !== 0) throw malformed(decoder.#offset, "end", "no trailing bytes", `${trailing}`);
    return value;
  }

  #item(depth: number): CborValue {
    const start = this.#offset;
    if (++this.#items > this.#limits.items) throw malformed(start, "items", `at most ${this.#limits.items}`);
    const initial = this.#view.getUint8(this.#skip(1));
    const major = initial >> 5;
    if (major === 7) return simple(start, initial);
    const argument = this.#argument(initial & 31);
    switch (major) {
      case 0:
        return argument;
      case 1:
        return negative(argument);
      case 2:
        return this.#byteString(argument);
      case 3:
        return this.#text(start, argument);
      case 4:
        return this.#array(start, argument, depth);
      case 5:
        return this.#map(start, argument, depth);
      default:
        return this.#tagged(start, argument, depth);
    }
  }

  #array(start: number, count: number | bigint, depth: number): readonly CborValue[] {
    const length = this.#count(start, count, 1, depth);
    const values: CborValue[] = [];
    for (let index = 0; index < length; index++) values.push(this.#item(depth + 1));
    return values;
  }

  #map(start: number, count: number | bigint, depth: number): CborMap {
    const length = this.#count(start, count, 2, depth);
    const map = new Map<CborKey, CborValue>();
    let previous = 0;
    let previousEnd = 0; // nothing is in front of the first key
    for (let index = 0; index < length; index++) {
      const keyStart = this.#offset;
      const key = this.#item(depth + 1);
      if (!isKey(key)) throw malformed(keyStart, "map key", "an integer or text");
      if (index > 0 && compareRanges(this.#bytes, previous, previousEnd, keyStart, this.#offset) >= 0) {
        throw malformed(keyStart, "map key", "keys sorted by their encoded bytes, each once");
      }
      previous = keyStart;
      previousEnd = this.#offset;
      map.set(key, this.#item(depth + 1));
    }
    return map;
  }

  #tagged(start: number, tag: number | bigint, depth: number): CborTagged {
    if (tag !== uccsTag) throw malformed(start, "tag", `${uccsTag}`, `${tag}`);
    this.#count(start, 1, 1, depth);
    return { tag: uccsTag, value: this.#item(depth + 1) };
  }

  /** Every item takes a byte at least: a count beyond the input is refused before anything is allocated. */
  #count(start: number, count: number | bigint, itemsEach: number, depth: number): number {
    if (depth + 1 > this.#limits.depth) throw malformed(start, "depth", `at most ${this.#limits.depth}`);
    const available = this.#bytes.length - this.#offset;
    if (count > available / itemsEach) throw malformed(start, "count", `at most ${available} bytes`, `${count}`);
    return Number(count);
  }

  #byteString(length: number | bigint): Uint8Array {
    const start = this.#string(length);
    return this.#bytes.subarray(start, this.#offset);
  }

  #text(start: number, length: number | bigint): string {
    const from = this.#string(length);
    const short = shortText(this.#bytes, from, this.#offset);
    if (short !== null) return short;
    try {
      return strictUtf8.decode(this.#bytes.subarray(from, this.#offset));
    } catch {
      throw malformed(start, "text", "valid UTF-8");
    }
  }

  /** Where a string of this length begins; it ends at the offset. */
  #string(length: number | bigint): number {
    if (length > this.#limits.string) {
      throw malformed(this.#offset, "string", `at most ${this.#limits.string} bytes`, `${length}`);
    }
    return this.#skip(Number(length));
  }

  #argument(info: number): number | bigint {
    const start = this.#offset;
    if (info < 24) return info;
    if (info > 27) throw malformed(start, "head", "a definite length");
    const size = 1 << (info - 24);
    const value = this.#unsigned(size);
    if (value < (size === 1 ? 24 : 2 ** (size * 4))) throw malformed(start, "head", "the shortest form");
    return value;
  }

  #unsigned(size: number): number | bigint {
    const at = this.#skip(size);
    if (size === 1) return this.#view.getUint8(at);
    if (size === 2) return this.#view.getUint16(at);
    const high = this.#view.getUint32(at);
    if (size === 4) return high;
    return high < 1 << 21 ? high * 2 ** 32 + this.#view.getUint32(at + 4) : this.#view.getBigUint64(at);
  }

  #skip(length: number): number {
    const start = this.#offset;
    if (length > this.#bytes.length - start) {
      throw malformed(start, "item", `${length} bytes`, `${this.#bytes.length - start}`);
    }
    this.#offset += length;
    return start;
  }
}

function simple(start: number, initial: number): boolean | null {
  if (initial === 0xf4) return false;
  if (initial === 0xf5) return true;
  if (initial === 0xf6) return null;
  throw malformed(start, "simple value", "false, true or null", `0x${initial.toString(16)}`);
}

function negative(argument: number | bigint): number | bigint {
  // -2^53 is no safe integer, so it stays a bigint like all below it.
  return typeof argument === "number" && argument < Number.MAX_SAFE_INTEGER ? -1 - argument : -1n - BigInt(argument);
}

function isKey(value: CborValue): value is CborKey {
  return typeof value === "number" || typeof value === "bigint" || typeof value === "string";
}

/** The text of a short string of valid UTF-8; `null` for any other, which is for TextDecoder to read or refuse. */
function shortText(bytes: Uint8Array, from: number, to: number): string | null {
  if (to - from > SHORT_TEXT) return null;
  let text = "";
  for (let at = from; at < to; ) {
    const lead = bytes[at] ?? 0xff;
    const size = utf8Size(lead);
    const point = size === 1 ? lead : codePoint(bytes, at, Math.min(at + size, to), size);
    if (point < 0) return null;
    text += String.fromCodePoint(point);
    at += size;
  }
  return text;
}

/** Bytes of the code point that begins with this byte; whether it may begin one at all is for `codePoint` to say. */
function utf8Size(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead < 0xe0) return 2;
  return lead < 0xf0 ? 3 : 4;
}

/** First code point of each size: a smaller one would have a shorter form (RFC 3629 section 3). */
const smallest = [0, 0, 0x80, 0x800, 0x10000];

/** A code point of more than one byte, -1 for what is none. */
function codePoint(bytes: Uint8Array, from: number, to: number, size: number): number {
  const lead = bytes[from] ?? 0;
  let point = lead & (0x7f >> size);
  for (let at = from + 1; at < to; at++) {
    const byte = bytes[at] ?? 0;
    if (byte >> 6 !== 2) return -1;
    point = (point << 6) | (byte & 0x3f);
  }
  const whole = lead >= 0xc0 && lead < 0xf8 && to - from === size && point >= (smallest[size] ?? 0);
  const surrogate = point >> 11 === 0x1b;
  return whole && point <= 0x10ffff && !surrogate ? point : -1;
}

/** Bytewise lexicographic order, the shorter one first where it is a prefix (RFC 8949 section 4.2.1). */
function compareRanges(bytes: Uint8Array, a: number, aEnd: number, b: number, bEnd: number): number {
  const length = Math.min(aEnd - a, bEnd - b);
  for (let index = 0; index < length; index++) {
    const difference = (bytes[a + index] ?? 0) - (bytes[b + index] ?? 0);
    if (difference !== 0) return difference;
  }
  return aEnd - a - (bEnd - b);
}

function malformed(offset: number, field: string, expected: string, got?: string): PolicyError {
  return new PolicyError("ERR_CBOR_MALFORMED", `cbor ${field} at offset ${offset}`, {
    expected,
    ...(got === undefined ? {} : { got }),
  });
}
