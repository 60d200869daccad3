import { joinBytes } from "./bytes.ts";
import { PolicyError } from "./errors.ts";

/** The one tag that is accepted: UCCS, an unprotected CWT claims set (RFC 9781). */
export const uccsTag = 601;

export interface CborTagged {
  readonly tag: typeof uccsTag;
  readonly value: CborValue;
}
export type CborKey = number | bigint | string;
export type CborMap = ReadonlyMap<CborKey, CborValue>;
/** Integers that JavaScript holds exactly are `number`, the others up to 64 bits `bigint`. */
export type CborValue =
  | number
  | bigint
  | string
  | boolean
  | null
  | Uint8Array
  | readonly CborValue[]
  | CborMap
  | CborTagged;

export interface CborLimits {
  /** Size of the whole input. */
  readonly bytes: number;
  /** Size of one byte or text string. */
  readonly string: number;
  /** Number of data items, keys included. */
  readonly items: number;
  /** Containers and tags inside each other. */
  readonly depth: number;
}

export const defaultCborLimits: CborLimits = {
  bytes: 4 << 20,
  string: 1 << 20,
  items: 100_000,
  depth: 16,
};

/**
 * Reads one CBOR item under the core deterministic encoding (RFC 8949 section 4.2.1) and nothing else: definite
 * lengths, shortest heads, map keys (integers or text) sorted by their encoded bytes and unique, valid UTF-8, tag
 * 601 only, no floating point, no `undefined`, no bignum, no trailing bytes. What is accepted encodes back to the
 * same bytes. Byte strings are parts of one copy of the input.
 *
 * Checks the form only: what a key means is the caller's business.
 *
 * @throws PolicyError `ERR_CBOR_MALFORMED`
 */
export function decodeCbor(bytes: Uint8Array, limits: CborLimits = defaultCborLimits): CborValue {
  if (bytes.length > limits.bytes) throw malformed(0, "size", `at most ${limits.bytes} bytes`, `${bytes.length}`);
  const decoder = new Decoder(bytes.slice(), limits);
  const value = decoder.item(0);
  decoder.end();
  return value;
}

class Decoder {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #limits: CborLimits;
  readonly #text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #offset = 0;
  #items = 0;

  constructor(bytes: Uint8Array, limits: CborLimits) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#limits = limits;
  }

  item(depth: number): CborValue {
    const start = this.#offset;
    if (++this.#items > this.#limits.items) throw malformed(start, "items", `at most ${this.#limits.items}`);
    const initial = this.#byte();
    const major = initial >> 5;
    if (major === 7) return simple(start, initial);
    const argument = this.#argument(initial & 31);
    switch (major) {
      case 0:
        return argument;
      case 1:
        return negative(argument);
      case 2:
        return this.#string(argument);
      case 3:
        return this.#decodeText(start, this.#string(argument));
      case 4:
        return this.#array(start, argument, depth);
      case 5:
        return this.#map(start, argument, depth);
      default:
        return this.#tagged(start, argument, depth);
    }
  }

  end(): void {
    const trailing = this.#bytes.length - this.#offset;
    if (trailing !== 0) throw malformed(this.#offset, "end", "no trailing bytes", `${trailing}`);
  }

  #array(start: number, count: number | bigint, depth: number): readonly CborValue[] {
    const length = this.#count(start, count, 1, depth);
    const values: CborValue[] = [];
    for (let index = 0; index < length; index++) values.push(this.item(depth + 1));
    return values;
  }

  #map(start: number, count: number | bigint, depth: number): CborMap {
    const length = this.#count(start, count, 2, depth);
    const map = new Map<CborKey, CborValue>();
    let previous: Uint8Array | null = null;
    for (let index = 0; index < length; index++) {
      const keyStart = this.#offset;
      const key = this.item(depth + 1);
      if (!isKey(key)) throw malformed(keyStart, "map key", "an integer or text");
      const encoded = this.#bytes.subarray(keyStart, this.#offset);
      if (previous !== null && compareBytes(previous, encoded) >= 0) {
        throw malformed(keyStart, "map key", "keys sorted by their encoded bytes, each once");
      }
      previous = encoded;
      map.set(key, this.item(depth + 1));
    }
    return map;
  }

  #tagged(start: number, tag: number | bigint, depth: number): CborTagged {
    if (tag !== uccsTag) throw malformed(start, "tag", `${uccsTag}`, `${tag}`);
    this.#count(start, 1, 1, depth);
    return { tag: uccsTag, value: this.item(depth + 1) };
  }

  /** Every item takes a byte at least: a count beyond the input is refused before anything is allocated. */
  #count(start: number, count: number | bigint, itemsEach: number, depth: number): number {
    if (depth + 1 > this.#limits.depth) throw malformed(start, "depth", `at most ${this.#limits.depth}`);
    const available = this.#bytes.length - this.#offset;
    if (count > available / itemsEach) throw malformed(start, "count", `at most ${available} bytes`, `${count}`);
    return Number(count);
  }

  #string(length: number | bigint): Uint8Array {
    if (length > this.#limits.string) {
      throw malformed(this.#offset, "string", `at most ${this.#limits.string} bytes`, `${length}`);
    }
    return this.#take(Number(length));
  }

  #decodeText(start: number, bytes: Uint8Array): string {
    try {
      return this.#text.decode(bytes);
    } catch {
      throw malformed(start, "text", "valid UTF-8");
    }
  }

  /** A number where JavaScript holds it exactly: `bigint` arithmetic for every head makes large input slow. */
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
    if (size === 4) return this.#view.getUint32(at);
    return exact(this.#view.getBigUint64(at));
  }

  #byte(): number {
    return this.#view.getUint8(this.#skip(1));
  }

  #take(length: number): Uint8Array {
    const start = this.#skip(length);
    return this.#bytes.subarray(start, start + length);
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
  return exact(-1n - BigInt(argument));
}

function exact(value: bigint): number | bigint {
  const small = Number(value);
  return Number.isSafeInteger(small) ? small : value;
}

function isKey(value: CborValue): value is CborKey {
  return typeof value === "number" || typeof value === "bigint" || typeof value === "string";
}

/**
 * The one encoding that `decodeCbor` accepts for a value. Map order does not matter: keys are sorted here.
 *
 * @throws TypeError for what has no place in it: fractions, integers beyond 64 bits, lone surrogates, equal keys
 */
export function encodeCbor(value: CborValue): Uint8Array {
  const parts: Uint8Array[] = [];
  encodeInto(parts, value);
  return joinBytes(parts);
}

function encodeInto(parts: Uint8Array[], value: CborValue): void {
  if (value === null) parts.push(Uint8Array.of(0xf6));
  else if (typeof value === "boolean") parts.push(Uint8Array.of(value ? 0xf5 : 0xf4));
  else if (typeof value === "number" || typeof value === "bigint") parts.push(encodeInteger(value));
  else if (typeof value === "string") pushString(parts, 3, encodeText(value));
  else if (value instanceof Uint8Array) pushString(parts, 2, value);
  else if (value instanceof Map) encodeMap(parts, value);
  else if (isTagged(value)) {
    parts.push(head(6, BigInt(value.tag)));
    encodeInto(parts, value.value);
  } else if (Array.isArray(value)) {
    parts.push(head(4, BigInt(value.length)));
    for (const element of value as readonly CborValue[]) encodeInto(parts, element);
  } else throw new TypeError("cbor: a value of this kind has no encoding");
}

function isTagged(value: object): value is CborTagged {
  return "tag" in value && value.tag === uccsTag && "value" in value;
}

function encodeMap(parts: Uint8Array[], map: CborMap): void {
  const entries = [...map].map(([key, value]) => ({
    key: encodeCbor(key),
    value,
  }));
  entries.sort((a, b) => compareBytes(a.key, b.key));
  entries.forEach((entry, index) => {
    const before = entries[index - 1];
    if (before !== undefined && compareBytes(before.key, entry.key) === 0) throw new TypeError("cbor: equal map keys");
  });
  parts.push(head(5, BigInt(entries.length)));
  for (const entry of entries) {
    parts.push(entry.key);
    encodeInto(parts, entry.value);
  }
}

function encodeInteger(value: number | bigint): Uint8Array {
  if (typeof value === "number" && !Number.isSafeInteger(value)) throw new TypeError("cbor: not an exact integer");
  const wide = BigInt(value);
  return wide >= 0n ? head(0, wide) : head(1, -1n - wide);
}

function encodeText(text: string): Uint8Array {
  if (!text.isWellFormed()) throw new TypeError("cbor: text with a lone surrogate");
  return new TextEncoder().encode(text);
}

function pushString(parts: Uint8Array[], major: number, bytes: Uint8Array): void {
  parts.push(head(major, BigInt(bytes.length)), bytes);
}

function head(major: number, argument: bigint): Uint8Array {
  if (argument >= 1n << 64n) throw new TypeError("cbor: an integer of more than 64 bits");
  if (argument < 24n) return Uint8Array.of((major << 5) | Number(argument));
  const power = argument < 1n << 8n ? 0 : argument < 1n << 16n ? 1 : argument < 1n << 32n ? 2 : 3;
  const size = 1 << power;
  const bytes = new Uint8Array(1 + size);
  bytes[0] = (major << 5) | (24 + power);
  for (let index = 0; index < size; index++) bytes[size - index] = Number((argument >> BigInt(8 * index)) & 0xffn);
  return bytes;
}

/** Bytewise lexicographic order, the shorter one first where it is a prefix (RFC 8949 section 4.2.1). */
function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let index = 0; index < length; index++) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

function malformed(offset: number, field: string, expected: string, got?: string): PolicyError {
  return new PolicyError("ERR_CBOR_MALFORMED", `cbor ${field} at offset ${offset}`, {
    expected,
    ...(got === undefined ? {} : { got }),
  });
}
