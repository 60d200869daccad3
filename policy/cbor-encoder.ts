import { type CborMap, type CborTagged, type CborValue, uccsTag } from "./cbor-value.ts";

const utf8Encoder = new TextEncoder();

/** An entry of a map as it was written: its key, then its value. */
interface WrittenEntry {
  readonly start: number;
  readonly keyEnd: number;
  readonly end: number;
}

/** The one pass of `encodeCbor`, into one buffer that doubles. Maps are sorted in place, where they are not sorted already. */
export class CborEncoder {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  /** @throws TypeError, see `encodeCbor` */
  value(value: CborValue): this {
    if (typeof value === "number" || typeof value === "bigint") this.#integer(value);
    else if (typeof value === "string") this.#text(value);
    else if (typeof value === "boolean") this.#byte(value ? 0xf5 : 0xf4);
    else if (value === null) this.#byte(0xf6);
    else if (value instanceof Uint8Array) this.#byteString(value);
    else if (value instanceof Map) this.#map(value);
    else if (Array.isArray(value)) this.#array(value);
    else if (isTagged(value)) this.#head(6, value.tag).value(value.value);
    else throw new TypeError("cbor: a value of this kind has no encoding");
    return this;
  }

  #array(values: readonly CborValue[]): void {
    this.#head(4, values.length);
    for (const element of values) this.value(element);
  }

  #map(map: CborMap): void {
    this.#head(5, map.size);
    const first = this.#length;
    const entries: WrittenEntry[] = [];
    let sorted = true;
    for (const [key, value] of map) {
      const start = this.#length;
      const keyEnd = this.#key(key);
      const before = entries.at(-1);
      if (before !== undefined && sorted) sorted = this.#compare(before, { start, keyEnd, end: keyEnd }) < 0;
      entries.push({ start, keyEnd, end: this.value(value).#length });
    }
    if (!sorted) this.#sort(first, entries);
  }

  #key(key: CborValue): number {
    if (typeof key !== "string" && typeof key !== "number" && typeof key !== "bigint")
      throw new TypeError("cbor: a map key that is no integer or text");
    return this.value(key).#length;
  }

  #sort(first: number, entries: WrittenEntry[]): void {
    entries.sort((a, b) => this.#compare(a, b));
    entries.forEach((entry, index) => {
      const before = entries[index - 1];
      if (before !== undefined && this.#compare(before, entry) === 0) throw new TypeError("cbor: equal map keys");
    });
    const written = this.#bytes.slice(first, this.#length);
    let at = first;
    for (const { start, end } of entries) {
      this.#bytes.set(written.subarray(start - first, end - first), at);
      at += end - start;
    }
  }

  /** Keys by their encoded bytes. No key is a prefix of another: its head has its length. */
  #compare(a: WrittenEntry, b: WrittenEntry): number {
    for (let index = 0; a.start + index < a.keyEnd && b.start + index < b.keyEnd; index++) {
      const difference = (this.#bytes[a.start + index] ?? 0) - (this.#bytes[b.start + index] ?? 0);
      if (difference !== 0) return difference;
    }
    return 0;
  }

  #integer(value: number | bigint): void {
    if (typeof value === "number") {
      if (!Number.isSafeInteger(value)) throw new TypeError("cbor: not an exact integer");
      this.#head(value < 0 ? 1 : 0, value < 0 ? -1 - value : value);
    } else {
      this.#wideHead(value < 0n ? 1 : 0, value < 0n ? -1n - value : value);
    }
  }

  #text(text: string): void {
    const start = this.#length;
    if (text.length < 24) {
      // Most texts: the head of an ASCII text of this length has one byte.
      this.#head(3, text.length).#reserve(text.length);
      if (this.#ascii(text)) return;
      this.#length = start;
    }
    if (!text.isWellFormed()) throw new TypeError("cbor: text with a lone surrogate");
    const bytes = utf8Encoder.encode(text);
    this.#head(3, bytes.length).#append(bytes);
  }

  /** Writes an ASCII text; false for any other, after which the length is to be set back. */
  #ascii(text: string): boolean {
    for (let index = 0; index < text.length; index++) {
      const code = text.charCodeAt(index);
      if (code > 0x7f) return false;
      this.#bytes[this.#length++] = code;
    }
    return true;
  }

  #byteString(bytes: Uint8Array): void {
    this.#head(2, bytes.length).#append(bytes);
  }

  #append(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  #byte(byte: number): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = byte;
  }

  /** Major type and argument in the shortest form, for an argument that a number holds exactly. */
  #head(major: number, argument: number): this {
    this.#reserve(9);
    const at = this.#length;
    if (argument < 24) return this.#headEnd((major << 5) | argument, 0);
    if (argument < 2 ** 8) {
      this.#view.setUint8(at + 1, argument);
      return this.#headEnd((major << 5) | 24, 1);
    }
    if (argument < 2 ** 16) {
      this.#view.setUint16(at + 1, argument);
      return this.#headEnd((major << 5) | 25, 2);
    }
    if (argument < 2 ** 32) {
      this.#view.setUint32(at + 1, argument);
      return this.#headEnd((major << 5) | 26, 4);
    }
    this.#view.setBigUint64(at + 1, BigInt(argument));
    return this.#headEnd((major << 5) | 27, 8);
  }

  #wideHead(major: number, argument: bigint): void {
    if (argument <= Number.MAX_SAFE_INTEGER) {
      this.#head(major, Number(argument));
      return;
    }
    if (argument >= 1n << 64n) throw new TypeError("cbor: an integer of more than 64 bits");
    this.#reserve(9);
    this.#view.setBigUint64(this.#length + 1, argument);
    this.#headEnd((major << 5) | 27, 8);
  }

  #headEnd(initial: number, argumentSize: number): this {
    this.#bytes[this.#length] = initial;
    this.#length += 1 + argumentSize;
    return this;
  }

  #reserve(more: number): void {
    const needed = this.#length + more;
    if (needed <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(needed, 2 * this.#bytes.length));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
    this.#view = new DataView(grown.buffer);
  }
}

function isTagged(value: object): value is CborTagged {
  return "tag" in value && value.tag === uccsTag && "value" in value;
}
