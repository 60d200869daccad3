import type { CborKey, CborMap, CborValue } from "../policy/index.ts";
import { AttestError } from "./errors.ts";

/** A claim's value, with the path to it for error messages. */
export interface ValueReader {
  asText(): string;
  asBoolean(): boolean;
  /** A whole number from 0 to 2^53 - 1. */
  asCount(): number;
  asBytes(length: number): Uint8Array;
  asMap(): MapReader;
}

/** Reads a map claim by claim; `end` refuses claims that nobody asked for. */
export interface MapReader {
  text(key: CborKey): string;
  count(key: CborKey): number;
  /** A whole number from 0 to 2^64 - 1. */
  wideCountOrNull(key: CborKey): bigint | null;
  bytes(key: CborKey, length: number): Uint8Array;
  bytesOrNull(key: CborKey, length: number): Uint8Array | null;
  oneOf<Value extends string>(key: CborKey, values: readonly Value[]): Value;
  exactly(key: CborKey, text: string): void;
  map(key: CborKey): MapReader;
  mapOrNull<Value>(key: CborKey, read: (map: MapReader) => Value): Value | null;
  array(key: CborKey, cap: number): readonly ValueReader[];
  /** A map of text to values of one kind. */
  entries<Value>(key: CborKey, read: (value: ValueReader) => Value): ReadonlyMap<string, Value>;
  end(): void;
  malformed(key: CborKey, expected: string, got?: string): AttestError;
}

export function mapReader(value: CborValue | undefined, path: string): MapReader {
  if (!(value instanceof Map)) throw malformed(path, "a map", describe(value));
  const map: CborMap = value;
  const asked = new Set<CborKey>();
  const get = (key: CborKey): CborValue | undefined => {
    asked.add(key);
    return map.get(key);
  };
  const at = (key: CborKey) => `${path}.${key}`;
  const reader: MapReader = {
    text: (key) => valueReader(get(key), at(key)).asText(),
    count: (key) => valueReader(get(key), at(key)).asCount(),
    wideCountOrNull: (key) => {
      const found = get(key);
      if (found === null) return null;
      if ((typeof found !== "number" && typeof found !== "bigint") || found < 0)
        throw malformed(at(key), "null or a whole number from 0", describe(found));
      return BigInt(found);
    },
    bytes: (key, length) => valueReader(get(key), at(key)).asBytes(length),
    bytesOrNull: (key, length) => (get(key) === null ? null : reader.bytes(key, length)),
    oneOf: (key, values) => {
      const text = reader.text(key);
      const found = values.find((candidate) => candidate === text);
      if (found === undefined) throw malformed(at(key), `one of ${values.join(", ")}`, text);
      return found;
    },
    exactly: (key, expected) => {
      const text = reader.text(key);
      if (text !== expected) throw malformed(at(key), expected, text);
    },
    map: (key) => mapReader(get(key), at(key)),
    mapOrNull: (key, read) => (get(key) === null ? null : read(reader.map(key))),
    array: (key, cap) => {
      const found = get(key);
      if (!Array.isArray(found)) throw malformed(at(key), "an array", describe(found));
      if (found.length > cap) throw malformed(at(key), `at most ${cap} elements`, `${found.length}`);
      return found.map((element: CborValue, index) => valueReader(element, `${at(key)}[${index}]`));
    },
    entries: (key, read) => readEntries(get(key), at(key), read),
    end: () => {
      const extra = [...map.keys()].filter((key) => !asked.has(key));
      if (extra.length > 0) throw malformed(path, "no other claim", extra.slice(0, 4).join(", "));
    },
    malformed: (key, expected, got) => malformed(at(key), expected, got),
  };
  return reader;
}

function readEntries<Value>(
  found: CborValue | undefined,
  path: string,
  read: (value: ValueReader) => Value,
): ReadonlyMap<string, Value> {
  if (!(found instanceof Map)) throw malformed(path, "a map", describe(found));
  const entries = new Map<string, Value>();
  for (const [name, value] of found as CborMap) {
    if (typeof name !== "string") throw malformed(path, "text keys", `${name}`);
    entries.set(name, read(valueReader(value, `${path}.${name}`)));
  }
  return entries;
}

function valueReader(value: CborValue | undefined, path: string): ValueReader {
  return {
    asText: () => {
      if (typeof value !== "string") throw malformed(path, "text", describe(value));
      return value;
    },
    asBoolean: () => {
      if (typeof value !== "boolean") throw malformed(path, "true or false", describe(value));
      return value;
    },
    asCount: () => {
      if (typeof value !== "number" || value < 0) throw malformed(path, "a whole number from 0", describe(value));
      return value;
    },
    asBytes: (length) => {
      if (!(value instanceof Uint8Array)) throw malformed(path, `${length} bytes`, describe(value));
      if (value.length !== length) throw malformed(path, `${length} bytes`, `${value.length}`);
      return value;
    },
    asMap: () => mapReader(value, path),
  };
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
