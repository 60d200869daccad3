import { concatBytes, fromHex, joinBytes, utf8 } from "../../policy/bytes.ts";
import { defaultCborLimits } from "../../policy/cbor.ts";

/** What one input costs a decoder most is some other input's cheapest part: one input for each. */
export interface HostileCbor {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** The field that the refusal names; null: it is well-formed, and read in full. */
  readonly refused: string | null;
}

const MIB = 1 << 20;
/** As many as a container can hold under the default limits, itself included. */
const MOST = defaultCborLimits.items - 1;

/** Inputs of up to 1 MiB under the default limits. */
export function hostileCbor(): readonly HostileCbor[] {
  return [...tinyItems(), ...containers(), ...keys(), ...texts(), ...lengths()];
}

function tinyItems(): readonly HostileCbor[] {
  const wide = (initial: number) => (index: number) => wideInteger(initial, (1n << 63n) + BigInt(index));
  return [
    accepted(
      "one-byte integers up to the item cap",
      list(MOST, () => Uint8Array.of(0)),
    ),
    refused(
      "one-byte integers, one above the item cap",
      "items",
      list(MOST + 1, () => Uint8Array.of(0)),
    ),
    refused("1 MiB of one-byte integers", "items", concatBytes(head(4, MIB - 5), new Uint8Array(MIB - 5))),
    accepted("64-bit integers", list(MOST, wide(0x1b))),
    accepted("negative 64-bit integers", list(MOST, wide(0x3b))),
    accepted(
      "negative 33-bit integers",
      list(MOST, () => fromHex("3b0000000100000000")),
    ),
    accepted(
      "empty byte strings",
      list(MOST, () => Uint8Array.of(0x40)),
    ),
    accepted(
      "short byte strings",
      list(MOST, () => fromHex("4401020304")),
    ),
    refused(
      "an item behind the last",
      "end",
      concatBytes(
        list(MOST, () => Uint8Array.of(0)),
        Uint8Array.of(0),
      ),
    ),
  ];
}

function containers(): readonly HostileCbor[] {
  const nest = concatBytes(new Uint8Array(14).fill(0x81), Uint8Array.of(0));
  return [
    accepted(
      "nested arrays up to the depth cap",
      list(6_600, () => nest),
    ),
    refused("1 MiB of nested arrays", "depth", new Uint8Array(MIB).fill(0x81)),
    accepted(
      "empty maps",
      list(MOST, () => Uint8Array.of(0xa0)),
    ),
    accepted(
      "maps of one entry",
      list(MOST / 3, () => fromHex("a10101")),
    ),
    accepted(
      "tags",
      list((MOST - 1) / 2, () => fromHex("d9025900")),
    ),
  ];
}

function keys(): readonly HostileCbor[] {
  const count = (MOST - 1) / 2;
  const entries = (key: (index: number) => Uint8Array) => (index: number) => concatBytes(key(index), Uint8Array.of(0));
  const map = (key: (index: number) => Uint8Array) => sequence(5, count, entries(key));
  const lastDoubled = (index: number) => Math.min(index, count - 2);
  const wide = (index: number) => wideInteger(0x1b, (1n << 60n) + BigInt(index));
  const long = (index: number) => text(`${"a".repeat(1000)}${index.toString().padStart(6, "0")}`);
  return [
    accepted("a map of 64-bit keys", map(wide)),
    refused(
      "a map of 64-bit keys, the last one doubled",
      "map key",
      map((index) => wide(lastDoubled(index))),
    ),
    accepted("a map of text keys", map(shortText)),
    refused(
      "a map of text keys, the last one doubled",
      "map key",
      map((index) => shortText(lastDoubled(index))),
    ),
    accepted("a map of long keys with the same beginning", sequence(5, 1000, entries(long))),
  ];
}

function texts(): readonly HostileCbor[] {
  const euros = Math.floor((MIB - 5) / 3);
  return [
    accepted("short texts", list(MOST, shortText)),
    accepted(
      "short texts that are not ASCII",
      list(MOST, (index) => text(`é${index.toString(36)}`)),
    ),
    refused(
      "short texts, the last one invalid",
      "text",
      list(MOST, (at) => (at < MOST - 1 ? shortText(at) : INVALID)),
    ),
    accepted(
      "texts of 40 bytes",
      list(24_900, () => text("b".repeat(40))),
    ),
    accepted("a text of 1 MiB in three-byte characters", text("€".repeat(euros))),
    refused("a text of 1 MiB, its last byte invalid", "text", longText(0xff)),
    accepted("a text of 1 MiB", longText(0x61)),
  ];
}

function lengths(): readonly HostileCbor[] {
  const claims = (initial: string) => concatBytes(fromHex(initial), new Uint8Array(MIB - 9));
  return [
    refused("an array of 2^63 - 1 items", "count", claims("9b7fffffffffffffff")),
    refused("a map of 2^63 - 1 entries", "count", claims("bb7fffffffffffffff")),
    refused("a byte string of 2^64 - 1 bytes", "string", claims("5bffffffffffffffff")),
    accepted("a byte string of 1 MiB", concatBytes(head(2, MIB - 5), new Uint8Array(MIB - 5))),
  ];
}

const INVALID = fromHex("61ff");
const accepted = (name: string, bytes: Uint8Array): HostileCbor => ({ name, bytes, refused: null });
const refused = (name: string, field: string, bytes: Uint8Array): HostileCbor => ({ name, bytes, refused: field });
const list = (count: number, item: (index: number) => Uint8Array) => sequence(4, count, item);
const text = (value: string) => concatBytes(head(3, utf8(value).length), utf8(value));
const shortText = (index: number) => text(index.toString(36).padStart(6, "0"));

function sequence(major: number, count: number, item: (index: number) => Uint8Array): Uint8Array {
  return joinBytes([head(major, count), ...Array.from({ length: count }, (_, index) => item(index))]);
}

function longText(last: number): Uint8Array {
  const bytes = concatBytes(head(3, MIB - 5), new Uint8Array(MIB - 5).fill(0x61));
  bytes[bytes.length - 1] = last;
  return bytes;
}

function wideInteger(initial: number, value: bigint): Uint8Array {
  const bytes = new Uint8Array(9);
  bytes[0] = initial;
  new DataView(bytes.buffer).setBigUint64(1, value);
  return bytes;
}

/** The shortest head, for an argument of up to 32 bits. */
function head(major: number, argument: number): Uint8Array {
  const size = argument < 24 ? 0 : argument < 0x100 ? 1 : argument < 0x10000 ? 2 : 4;
  if (size === 0) return Uint8Array.of((major << 5) | argument);
  const bytes = new Uint8Array(5);
  new DataView(bytes.buffer).setUint32(1, argument);
  return concatBytes(Uint8Array.of((major << 5) | (24 + Math.log2(size))), bytes.subarray(5 - size));
}
