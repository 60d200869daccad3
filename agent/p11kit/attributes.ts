import type { ByteReader, ByteWriter } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";

export const MAX_ATTRIBUTES = 64;
export const MAX_DEPTH = 8;
const NULL_LENGTH = 0xffff_ffff;
const MAX_VALUE = 65_536;

/** CK_ATTRIBUTE_TYPE (PKCS #11 2.40) of what the agent's objects have, and of what they refuse. */
export const CKA = {
  CLASS: 0x0,
  TOKEN: 0x1,
  PRIVATE: 0x2,
  LABEL: 0x3,
  VALUE: 0x11,
  CERTIFICATE_TYPE: 0x80,
  ISSUER: 0x81,
  SERIAL_NUMBER: 0x82,
  TRUSTED: 0x86,
  CERTIFICATE_CATEGORY: 0x87,
  KEY_TYPE: 0x100,
  SUBJECT: 0x101,
  ID: 0x102,
  SENSITIVE: 0x103,
  ENCRYPT: 0x104,
  DECRYPT: 0x105,
  WRAP: 0x106,
  UNWRAP: 0x107,
  SIGN: 0x108,
  SIGN_RECOVER: 0x109,
  VERIFY: 0x10a,
  VERIFY_RECOVER: 0x10b,
  DERIVE: 0x10c,
  START_DATE: 0x110,
  END_DATE: 0x111,
  MODULUS: 0x120,
  MODULUS_BITS: 0x121,
  PUBLIC_EXPONENT: 0x122,
  PRIVATE_EXPONENT: 0x123,
  PRIME_1: 0x124,
  PRIME_2: 0x125,
  EXPONENT_1: 0x126,
  EXPONENT_2: 0x127,
  COEFFICIENT: 0x128,
  PUBLIC_KEY_INFO: 0x129,
  EXTRACTABLE: 0x162,
  LOCAL: 0x163,
  NEVER_EXTRACTABLE: 0x164,
  ALWAYS_SENSITIVE: 0x165,
  MODIFIABLE: 0x170,
  COPYABLE: 0x171,
  DESTROYABLE: 0x172,
  EC_PARAMS: 0x180,
  EC_POINT: 0x181,
  ALWAYS_AUTHENTICATE: 0x202,
  WRAP_WITH_TRUSTED: 0x210,
} as const;

/** How an attribute's value travels. `other` is read and never matches: arrays of attributes and of mechanisms. */
export type AttributeValue =
  | { readonly kind: "byte"; readonly value: number }
  | { readonly kind: "ulong"; readonly value: bigint }
  | { readonly kind: "bytes"; readonly value: Uint8Array }
  | { readonly kind: "other" };

export function flag(value: boolean): AttributeValue {
  return { kind: "byte", value: value ? 1 : 0 };
}

export function ulong(value: bigint): AttributeValue {
  return { kind: "ulong", value };
}

export function byteString(value: Uint8Array): AttributeValue {
  return { kind: "bytes", value };
}

/** `value` null: the client sent the type only (ulValueLen = -1). */
export interface Attribute {
  readonly type: number;
  readonly value: AttributeValue | null;
}

/** What C_GetAttributeValue asks for: `room` bytes, null for a length query. */
export interface AttributeQuery {
  readonly type: number;
  readonly room: number | null;
}

type ValueClass = "byte" | "ulong" | "template" | "mechanisms" | "date" | "bytes";

const CLASSES: ReadonlyMap<number, ValueClass> = new Map([
  ...classed(
    "byte",
    [0x1, 0x2, 0x86, 0x103, 0x104, 0x105, 0x106, 0x107, 0x108, 0x109, 0x10a, 0x10b, 0x10c, 0x162, 0x163, 0x164, 0x165],
    [0x170, 0x171, 0x200, 0x202, 0x210, 0x301, 0x302, 0x405],
  ),
  ...classed(
    "ulong",
    [0x0, 0x80, 0x87, 0x88, 0x100, 0x121, 0x133, 0x134, 0x160, 0x161, 0x166, 0x201, 0x300],
    [0x400, 0x401, 0x402, 0x403, 0x404, 0x406, 0x500],
  ),
  ...classed("template", [0x4000_0211, 0x4000_0212, 0x4000_0213]),
  ...classed("mechanisms", [0x4000_0600]),
  ...classed("date", [0x110, 0x111]),
]);

/** Reads `aA`. */
export function readAttributes(reader: ByteReader): readonly Attribute[] {
  return readAttributeList(reader, { left: MAX_ATTRIBUTES }, 0);
}

/** Reads `fA`. Clients of version 1 and above send a nested query for attribute arrays. */
export function readAttributeQueries(reader: ByteReader, version: number): readonly AttributeQuery[] {
  return readQueryList(reader, version, { left: MAX_ATTRIBUTES }, 0);
}

/** Writes one attribute of a reply; `value` null means unavailable. With `lengthOnly` a byte string travels as NULL with its true length. */
export function writeAttribute(
  writer: ByteWriter,
  type: number,
  value: AttributeValue | null,
  lengthOnly: boolean,
): void {
  writer.u32(type);
  if (value === null || value.kind === "other") {
    writer.u8(0);
    return;
  }
  writer.u8(1).u32(nativeLength(value));
  switch (value.kind) {
    case "byte":
      writer.u8(value.value);
      return;
    case "ulong":
      writer.u64(value.value);
      return;
    case "bytes":
      if (lengthOnly) writer.u32(NULL_LENGTH);
      else writer.sized32(value.value);
  }
}

/** The value's size in the caller's memory: 1 for CK_BBOOL, 8 for CK_ULONG. */
export function nativeLength(value: AttributeValue): number {
  switch (value.kind) {
    case "byte":
      return 1;
    case "ulong":
      return 8;
    case "bytes":
      return value.value.length;
    case "other":
      return 0;
  }
}

export function sameValue(a: AttributeValue, b: AttributeValue): boolean {
  if (a.kind === "bytes" && b.kind === "bytes") {
    return a.value.length === b.value.length && a.value.every((byte, index) => byte === b.value[index]);
  }
  return a.kind !== "other" && a.kind !== "bytes" && a.kind === b.kind && a.value === b.value;
}

/** Reads an inner byte string: u32 length and bytes, where 0xffffffff means NULL and has no bytes. */
export function readByteString(reader: ByteReader, field: string, cap: number): Uint8Array | null {
  const length = reader.u32(`${field} length`);
  if (length === NULL_LENGTH) return null;
  if (length > cap) throw malformed(field, `at most ${cap} bytes`, `${length}`);
  return reader.bytes(length, field);
}

/** Reads a `valid` byte. */
export function readFlag(reader: ByteReader, field: string): boolean {
  const flag = reader.u8(field);
  if (flag > 1) throw malformed(field, "0 or 1", `${flag}`);
  return flag === 1;
}

export function malformed(field: string, expected: string, got: string): AgentError {
  return new AgentError("ERR_RPC_MALFORMED", `RPC ${field}`, { expected, got });
}

interface Budget {
  left: number;
}

function readCount(reader: ByteReader, budget: Budget, depth: number): number {
  const count = reader.u32("attribute count");
  if (depth > MAX_DEPTH) throw malformed("attributes", `at most ${MAX_DEPTH} levels`, "more");
  if (count > budget.left) throw malformed("attribute count", `at most ${MAX_ATTRIBUTES}`, `${count}`);
  budget.left -= count;
  return count;
}

function readAttributeList(reader: ByteReader, budget: Budget, depth: number): Attribute[] {
  const count = readCount(reader, budget, depth);
  const list: Attribute[] = [];
  for (let index = 0; index < count; index += 1) {
    const type = reader.u32("attribute type");
    const valid = readFlag(reader, "attribute valid");
    list.push({ type, value: valid ? readValue(reader, type, budget, depth) : null });
  }
  return list;
}

function readValue(reader: ByteReader, type: number, budget: Budget, depth: number): AttributeValue {
  const length = reader.u32("attribute length");
  switch (CLASSES.get(type) ?? "bytes") {
    case "byte":
      expectLength(type, 1, length);
      return { kind: "byte", value: reader.u8("attribute value") };
    case "ulong":
      expectLength(type, 8, length);
      return { kind: "ulong", value: reader.u64("attribute value") };
    case "template":
      expectLength(type, 24 * readAttributeList(reader, budget, depth + 1).length, length);
      return { kind: "other" };
    case "mechanisms":
      readMechanismArray(reader, budget, depth, type, length);
      return { kind: "other" };
    case "date":
    case "bytes": {
      const value = readByteString(reader, "attribute value", MAX_VALUE) ?? new Uint8Array();
      expectLength(type, value.length, length);
      return { kind: "bytes", value };
    }
  }
}

function readMechanismArray(reader: ByteReader, budget: Budget, depth: number, type: number, length: number): void {
  const count = readCount(reader, budget, depth);
  expectLength(type, 8 * count, length);
  reader.bytes(8 * count, "mechanism array");
}

function readQueryList(reader: ByteReader, version: number, budget: Budget, depth: number): AttributeQuery[] {
  const count = readCount(reader, budget, depth);
  const list: AttributeQuery[] = [];
  for (let index = 0; index < count; index += 1) {
    const type = reader.u32("attribute type");
    const room = reader.u32("attribute room");
    const nested = CLASSES.get(type) === "template" && room !== 0 && version >= 1;
    if (nested) readQueryList(reader, version, budget, depth + 1);
    // 0xffffffff stands for a buffer of length 0, as in other rooms.
    list.push({ type, room: room === 0 ? null : room === NULL_LENGTH ? 0 : room });
  }
  return list;
}

function expectLength(type: number, expected: number, got: number): void {
  if (expected !== got) throw malformed(`attribute 0x${type.toString(16)} length`, `${expected}`, `${got}`);
}

function classed(kind: ValueClass, ...types: readonly (readonly number[])[]): [number, ValueClass][] {
  return types.flat().map((type) => [type, kind]);
}
