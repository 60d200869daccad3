import type { CborKey, CborMap, CborValue } from "../policy/index.ts";
import { AttestError } from "./errors.ts";

/** A claim's value. Knows where it stands, of which a text is made for an error only: a report has hundreds. */
export class ValueReader {
  readonly #value: CborValue | undefined;
  readonly #parent: string;
  readonly #step: CborKey;

  /** @param step a key below `parent`, or an element's `[index]` */
  constructor(value: CborValue | undefined, parent: string, step: CborKey) {
    this.#value = value;
    this.#parent = parent;
    this.#step = step;
  }

  asText(): string {
    return typeof this.#value === "string" ? this.#value : this.#refuse("text");
  }

  asOneOf<Value extends string>(values: readonly Value[]): Value {
    const found = values.find((candidate) => candidate === this.#value);
    return found ?? this.#refuse(`one of ${values.join(", ")}`);
  }

  asBoolean(): boolean {
    return typeof this.#value === "boolean" ? this.#value : this.#refuse("true or false");
  }

  /** A whole number from 0 to 2^53 - 1. */
  asCount(): number {
    return typeof this.#value === "number" && this.#value >= 0 ? this.#value : this.#refuse("a whole number from 0");
  }

  /** A whole number from 0 to 2^64 - 1. */
  asWideCount(): bigint {
    const value = this.#value;
    if ((typeof value === "number" || typeof value === "bigint") && value >= 0) return BigInt(value);
    return this.#refuse("a whole number from 0");
  }

  asBytes(length: number): Uint8Array {
    const value = this.#value;
    if (!(value instanceof Uint8Array)) return this.#refuse(`${length} bytes`);
    return value.length === length ? value : this.#refuse(`${length} bytes`, `${value.length}`);
  }

  asMap(): MapReader {
    return mapReader(this.#value, below(this.#parent, this.#step));
  }

  #refuse(expected: string, got = describe(this.#value)): never {
    throw malformed(below(this.#parent, this.#step), expected, got);
  }
}

/** Reads a map claim by claim; `end` refuses claims that nobody asked for. */
export class MapReader {
  readonly #map: CborMap;
  readonly #path: string;
  readonly #asked = new Set<CborKey>();

  constructor(map: CborMap, path: string) {
    this.#map = map;
    this.#path = path;
  }

  text(key: CborKey): string {
    return this.#value(key).asText();
  }

  shortText(key: CborKey, cap: number): string {
    const text = this.text(key);
    if (text.length > cap) throw this.malformed(key, `at most ${cap} characters`, `${text.length}`);
    return text;
  }

  /** A whole number from 0, or -1 for none. */
  place(key: CborKey): number {
    return this.#get(key) === -1 ? -1 : this.count(key);
  }

  count(key: CborKey): number {
    return this.#value(key).asCount();
  }

  /** A whole number from 0 to 2^64 - 1. */
  wideCountOrNull(key: CborKey): bigint | null {
    return this.#get(key) === null ? null : this.#value(key).asWideCount();
  }

  bytes(key: CborKey, length: number): Uint8Array {
    return this.#value(key).asBytes(length);
  }

  bytesOrNull(key: CborKey, length: number): Uint8Array | null {
    return this.#get(key) === null ? null : this.bytes(key, length);
  }

  oneOf<Value extends string>(key: CborKey, values: readonly Value[]): Value {
    const text = this.text(key);
    const found = values.find((candidate) => candidate === text);
    if (found === undefined) throw this.malformed(key, `one of ${values.join(", ")}`, text);
    return found;
  }

  exactly(key: CborKey, expected: string): void {
    const text = this.text(key);
    if (text !== expected) throw this.malformed(key, expected, text);
  }

  map(key: CborKey): MapReader {
    return this.#value(key).asMap();
  }

  mapOrNull<Value>(key: CborKey, read: (map: MapReader) => Value): Value | null {
    return this.#get(key) === null ? null : read(this.map(key));
  }

  array(key: CborKey, cap: number): readonly ValueReader[] {
    const found = this.#get(key);
    if (!Array.isArray(found)) throw this.malformed(key, "an array", describe(found));
    if (found.length > cap) throw this.malformed(key, `at most ${cap} elements`, `${found.length}`);
    const path = below(this.#path, key);
    return found.map((element: CborValue, index) => new ValueReader(element, path, `[${index}]`));
  }

  /** A map of text to at most `cap` values of one kind. */
  entries<Value>(key: CborKey, cap: number, read: (value: ValueReader) => Value): ReadonlyMap<string, Value> {
    const found = this.#get(key);
    const path = below(this.#path, key);
    if (!(found instanceof Map)) throw malformed(path, "a map", describe(found));
    if (found.size > cap) throw malformed(path, `at most ${cap} entries`, `${found.size}`);
    const entries = new Map<string, Value>();
    for (const [name, value] of found as CborMap) {
      if (typeof name !== "string") throw malformed(path, "text keys", `${name}`);
      entries.set(name, read(new ValueReader(value, path, name)));
    }
    return entries;
  }

  end(): void {
    const extra: CborKey[] = [];
    for (const key of this.#map.keys()) if (!this.#asked.has(key)) extra.push(key);
    if (extra.length > 0) throw malformed(this.#path, "no other claim", extra.slice(0, 4).join(", "));
  }

  malformed(key: CborKey, expected: string, got?: string): AttestError {
    return malformed(below(this.#path, key), expected, got);
  }

  #get(key: CborKey): CborValue | undefined {
    this.#asked.add(key);
    return this.#map.get(key);
  }

  #value(key: CborKey): ValueReader {
    return new ValueReader(this.#get(key), this.#path, key);
  }
}

/** @param path of the value, for errors. @throws AttestError `ERR_CLAIMS_MALFORMED` */
export function mapReader(value: CborValue | undefined, path: string): MapReader {
  if (!(value instanceof Map)) throw malformed(path, "a map", describe(value));
  return new MapReader(value, path);
}

function below(path: string, step: CborKey): string {
  return typeof step === "string" && step.startsWith("[") ? `${path}${step}` : `${path}.${step}`;
}

function describe(value: CborValue | undefined): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  if (value instanceof Map) return "a map";
  return Array.isArray(value) ? "an array" : typeof value === "object" ? "a tag" : `${value}`.slice(0, 80);
}

function malformed(path: string, expected: string, got?: string): AttestError {
  return new AttestError("ERR_CLAIMS_MALFORMED", path, {
    expected,
    ...(got === undefined ? {} : { got }),
  });
}
