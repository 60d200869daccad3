import { CALLS, type CallRow, callNamed } from "../../agent/p11kit/calls.ts";
import { ByteReader, ByteWriter, concatBytes } from "../../policy/index.ts";
import { byteArray, u32, ulongs } from "./rpc-client.ts";

/** Where the choices come from: the next byte of an input, 0 when it is used up. */
export type Choices = () => number;

/** A call of the protocol with arguments that are well-formed by its signature, whatever sense they make. */
export interface HostileCall {
  readonly row: CallRow;
  readonly values: Uint8Array;
}

const ROWS = [...CALLS.values()];
const NUMBERS = [0n, 1n, 2n, 3n, 4n, 6n, 0x800n, 0x2400n, 0xffff_ffff_ffff_ffffn];
const ROOMS = [0, 1, 16, 32, 64, 256, 512, 0xffff_ffff];
const LENGTHS = [0, 1, 32, 51, 64, 256];
const MECHANISMS = [0x1041, 0x1044, 0x1, 0x40, 0xd, 0x43, 0x9, 0x3, 0x250, 0x260, 0x270, 0x220, 0x1042, 0xffff_ffff];
const ATTRIBUTES = [0x0, 0x3, 0x11, 0x100, 0x102, 0x103, 0x10a, 0x123, 0x129, 0x172, 0x180, 0x4000_0600];

/** The argument letters of a signature, array letters with what they are arrays of. */
function lettersOf(signature: string): readonly string[] {
  return signature.match(/[af]?[yuA]|[vszMP]/g) ?? [];
}

export function hostileCall(next: Choices, version: number): HostileCall {
  const row = pick(ROWS, next());
  return { row, values: concatBytes(...lettersOf(row.request).map((letter) => argument(letter, next, version))) };
}

/** Calls that use a scope's first key as its caller would; hostile ones come between them. */
export function goodCalls(operation: "sign" | "decrypt" | "unwrap", mechanism: Uint8Array): readonly HostileCall[] {
  const [open, session] = [ulongs(1n, 4n), ulongs(1n)];
  const use = concatBytes(session, mechanism, ulongs(1n));
  const call = (name: string, ...values: Uint8Array[]) => ({ row: callNamed(name), values: concatBytes(...values) });
  const block = byteArray(new Uint8Array(256));
  if (operation === "unwrap") return [call("C_OpenSession", open), call("C_UnwrapKey", use, block, u32(0))];
  const name = operation === "sign" ? "Sign" : "Decrypt";
  const data = operation === "sign" ? byteArray(new Uint8Array(32)) : block;
  return [call("C_OpenSession", open), call(`C_${name}Init`, use), call(`C_${name}`, session, data, u32(512))];
}

/** @throws when the values of a successful reply are not what the call's signature says */
export function readReplyValues({ response, name }: CallRow, values: Uint8Array): void {
  const reader = new ByteReader(values, `reply of ${name}`);
  for (const letter of lettersOf(response)) readValue(letter, reader);
  reader.end();
}

function argument(letter: string, next: Choices, version: number): Uint8Array {
  const writer = new ByteWriter();
  switch (letter) {
    case "y":
      return Uint8Array.of(next() % 2);
    case "u":
      return writer.u64(pick(NUMBERS, next())).finish();
    case "ay": {
      const length = pick(LENGTHS, next());
      const isNull = next() % 8 === 0;
      return isNull ? writer.u8(0).u32(length).finish() : writer.u8(1).sized32(bytesOf(length, next)).finish();
    }
    case "fy":
    case "fu":
      return writer.u32(pick(ROOMS, next())).finish();
    case "aA": {
      const label = new ByteWriter().sized32(bytesOf(4, next)).finish();
      const attribute = new ByteWriter().u32(3).u8(1).u32(4).bytes(label).finish();
      return next() % 2 === 0 ? writer.u32(0).finish() : writer.u32(1).bytes(attribute).finish();
    }
    case "fA": {
      const queries = Array.from(
        { length: next() % 4 },
        () => [pick(ATTRIBUTES, next()), pick(ROOMS, next())] as const,
      );
      return queries.reduce((list, [type, room]) => list.u32(type).u32(room), writer.u32(queries.length)).finish();
    }
    case "M":
      return mechanism(pick(MECHANISMS, next()), next, version);
    default:
      return writer.sized32(bytesOf(32, next)).finish();
  }
}

function mechanism(type: number, next: Choices, version: number): Uint8Array {
  const writer = new ByteWriter().u32(type);
  if (type === 0xffff_ffff) return writer.finish();
  const takes = type === 0xd || type === 0x43 ? "pss" : type === 0x9 ? "oaep" : "none";
  if (takes === "none") return version >= 2 ? writer.finish() : writer.u32(0xffff_ffff).finish();
  if (version >= 2) writer.u8(1);
  writer
    .u64(0x250n)
    .u64(2n)
    .u64(takes === "pss" && next() % 4 !== 0 ? 32n : 1n);
  return takes === "pss" ? writer.finish() : writer.u32(0xffff_ffff).finish();
}

function readValue(letter: string, reader: ByteReader): void {
  switch (letter) {
    case "u":
      reader.u64("number");
      return;
    case "v":
      reader.bytes(2, "version");
      return;
    case "ay":
    case "au": {
      const isValid = flag(reader);
      const length = reader.u32("length");
      if (isValid) reader.bytes(letter === "ay" ? length : 8 * length, "array");
      return;
    }
    case "aA":
      for (let left = reader.u32("count"); left > 0; left -= 1) readAttribute(reader);
      return;
    default:
      reader.sized32("text", 64);
  }
}

/** As a client reads it, by what the values of these types are. */
function readAttribute(reader: ByteReader): void {
  const type = reader.u32("type");
  if (!flag(reader)) return;
  const length = reader.u32("length");
  if ([0x0, 0x100, 0x121].includes(type)) reader.u64("number");
  else if ([0x103, 0x10a].includes(type)) reader.u8("truth");
  else {
    const sent = reader.u32("bytes");
    if (sent !== 0xffff_ffff && sent !== length) throw new Error("an attribute's length is not its value's");
    reader.bytes(sent === 0xffff_ffff ? 0 : sent, "value");
  }
}

function flag(reader: ByteReader): boolean {
  const value = reader.u8("valid");
  if (value > 1) throw new Error("a flag that is none");
  return value === 1;
}

function bytesOf(length: number, next: Choices): Uint8Array {
  return new Uint8Array(length).fill(next());
}

function pick<T>(list: readonly T[], choice: number): T {
  const found = list[choice % list.length];
  if (found === undefined) throw new TypeError("pick: an empty list");
  return found;
}
