import { ByteReader, ByteWriter, utf8 } from "../../policy/index.ts";
import {
  type Attribute,
  type AttributeQuery,
  malformed,
  readAttributeQueries,
  readAttributes,
  readByteString,
  readFlag,
} from "./attributes.ts";
import { MAX_BODY } from "./frame.ts";
import {
  type Mechanism,
  type MechanismAndKey,
  readLastMechanism,
  readMechanism,
  readMechanismAndKey,
} from "./mechanism-codec.ts";

const NULL_LENGTH = 0xffff_ffff;

/** A byte array argument: bytes, or a NULL pointer with the length that the caller gave. */
export type ByteArray =
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  | { readonly kind: "null"; readonly length: number };

/** Reads the arguments of one request by the letters of its signature. Every method throws a typed error on malformed bytes. */
export class ArgumentReader {
  readonly #reader: ByteReader;
  readonly #version: number;

  /** @param version the answered protocol version of the connection */
  constructor(values: Uint8Array, version: number) {
    this.#reader = new ByteReader(values, "RPC arguments");
    this.#version = version;
  }

  /** `y` */
  byte(field: string): number {
    return this.#reader.u8(field);
  }

  /** `u` */
  ulong(field: string): bigint {
    return this.#reader.u64(field);
  }

  /** `ay`. A NULL pointer still has its length on the wire. */
  byteArray(field: string): ByteArray {
    if (!readFlag(this.#reader, `${field} valid`)) return { kind: "null", length: this.#reader.u32(`${field} length`) };
    const bytes = readByteString(this.#reader, field, MAX_BODY);
    if (bytes === null) throw malformed(field, "bytes", "NULL");
    return { kind: "bytes", bytes };
  }

  /** `fy` and `fu`: the caller's room, null when it gave no buffer. 0xffffffff stands for a buffer of length 0. */
  room(field: string): number | null {
    const room = this.#reader.u32(field);
    if (room === 0) return null;
    return room === NULL_LENGTH ? 0 : room;
  }

  /** `aA` */
  attributes(): readonly Attribute[] {
    return readAttributes(this.#reader);
  }

  /** `fA` */
  attributeQueries(): readonly AttributeQuery[] {
    return readAttributeQueries(this.#reader, this.#version);
  }

  /** `Mu`, the last two arguments */
  mechanismAndKey(): MechanismAndKey {
    return readMechanismAndKey(this.#reader, this.#version);
  }

  /** `M`, the last argument */
  lastMechanism(): Mechanism {
    return readLastMechanism(this.#reader, this.#version);
  }

  /** `M` with more behind it; without parameters: of no form that is known here, and the rest is not read. */
  mechanism(): ReturnType<typeof readMechanism> {
    return readMechanism(this.#reader, this.#version);
  }

  end(): void {
    this.#reader.end();
  }
}

export const NO_VALUES = new Uint8Array();

/** NULL with length 0 is an empty message; NULL with another length is a mistake of the caller, and null here. */
export function bytesOf(array: ByteArray): Uint8Array | null {
  if (array.kind === "bytes") return array.bytes;
  return array.length === 0 ? NO_VALUES : null;
}

/** `u`, any number of them */
export function encodeUlongs(...values: readonly bigint[]): Uint8Array {
  const writer = new ByteWriter();
  for (const value of values) writer.u64(value);
  return writer.finish();
}

/** `ay`: the bytes when they fit the caller's room, otherwise their length. */
export function encodeByteArray(bytes: Uint8Array, room: number | null): Uint8Array {
  return room === null || room < bytes.length
    ? encodeLength(bytes.length)
    : new ByteWriter().u8(1).sized32(bytes).finish();
}

/** `ay` or `au` with the number only: a length query, or too little room. */
export function encodeLength(length: number): Uint8Array {
  return new ByteWriter().u8(0).u32(length).finish();
}

/**
 * `au`: the items, or their number when the caller gave no room or too little. No items travel as a valid empty list:
 * the stock client turns an invalid list of 0 into CKR_BUFFER_TOO_SMALL.
 */
export function encodeUlongArray(items: readonly bigint[], room: number | null): Uint8Array {
  if (items.length > 0 && (room === null || room < items.length)) return encodeLength(items.length);
  const writer = new ByteWriter().u8(1).u32(items.length);
  for (const item of items) writer.u64(item);
  return writer.finish();
}

/** `s`: a text field of fixed width, padded with spaces. Too long a text is cut, outside printable ASCII becomes `?`. */
export function encodeFixedText(text: string, width: number): Uint8Array {
  const ascii = text
    .replace(/[^ -~]/gu, "?")
    .slice(0, width)
    .padEnd(width, " ");
  return new ByteWriter().sized32(utf8(ascii)).finish();
}

/** `v` */
export function encodeVersion(major: number, minor: number): Uint8Array {
  return Uint8Array.of(major, minor);
}
