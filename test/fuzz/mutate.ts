import { concatBytes } from "../../policy/bytes.ts";
import type { Random } from "./random.ts";

/** Values that length and index checks are wrong about most often. */
const edges: readonly number[] = [
  0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff,
];
const widths: readonly number[] = [1, 2, 4, 8];

export interface Mutation {
  readonly random: Random;
  /** Tokens of the target's source. */
  readonly dictionary: readonly Uint8Array[];
  /** Inputs to splice with. */
  readonly corpus: readonly Uint8Array[];
  readonly maxLength: number;
}

type Step = (bytes: Uint8Array, mutation: Mutation) => Uint8Array;

const steps: readonly Step[] = [
  setByte,
  flipBit,
  addToNumber,
  setEdge,
  insertBytes,
  deleteRange,
  repeatRange,
  copyRange,
  splice,
  overwriteToken,
  insertToken,
  resizeField,
  resizeField,
  changeDecimal,
];

/** A new input from an old one: one to eight steps, few of them most of the time. */
export function mutate(input: Uint8Array, mutation: Mutation): Uint8Array {
  const { random, maxLength } = mutation;
  let bytes = input;
  for (let left = 1 << random.below(4); left > 0; left--) bytes = random.pick(steps)(bytes, mutation);
  return bytes.length > maxLength ? bytes.slice(0, maxLength) : bytes;
}

/** `bytes` with `removed` bytes at `at` replaced. */
export function replaceRange(bytes: Uint8Array, at: number, removed: number, inserted: Uint8Array): Uint8Array {
  return concatBytes(bytes.subarray(0, at), inserted, bytes.subarray(at + removed));
}

function setByte(bytes: Uint8Array, { random }: Mutation): Uint8Array {
  if (bytes.length === 0) return Uint8Array.of(random.below(256));
  const changed = bytes.slice();
  changed[random.below(bytes.length)] = random.below(256);
  return changed;
}

function flipBit(bytes: Uint8Array, { random }: Mutation): Uint8Array {
  if (bytes.length === 0) return bytes;
  const changed = bytes.slice();
  const at = random.below(bytes.length);
  changed[at] = (changed[at] ?? 0) ^ (1 << random.below(8));
  return changed;
}

function addToNumber(bytes: Uint8Array, { random }: Mutation): Uint8Array {
  const field = anyField(bytes, random);
  if (field === null) return bytes;
  const change = BigInt(1 + random.below(32)) * (random.below(2) === 0 ? 1n : -1n);
  return writeNumber(bytes, field, readNumber(bytes, field) + change);
}

function setEdge(bytes: Uint8Array, { random }: Mutation): Uint8Array {
  const field = anyField(bytes, random);
  return field === null ? bytes : writeNumber(bytes, field, BigInt(random.pick(edges)) - BigInt(random.below(2)));
}

function insertBytes(bytes: Uint8Array, { random }: Mutation): Uint8Array {
  const one = random.below(256);
  const same = random.below(2) === 0;
  const inserted = Uint8Array.from({ length: 1 + random.below(16) }, () => (same ? one : random.below(256)));
  return replaceRange(bytes, random.below(bytes.length + 1), 0, inserted);
}

function deleteRange(bytes: Uint8Array, { random }: Mutation): Uint8Array {
  const at = random.below(bytes.length + 1);
  const longest = random.below(4) === 0 ? bytes.length - at : Math.min(16, bytes.length - at);
  return replaceRange(bytes, at, random.below(longest + 1), new Uint8Array());
}

/** A range again, several times: lists with more elements than anybody expects. */
function repeatRange(bytes: Uint8Array, { random, maxLength }: Mutation): Uint8Array {
  const range = anyRange(bytes, random);
  const times = Math.min(1 << random.below(8), Math.floor((maxLength - bytes.length) / Math.max(1, range.length)));
  return times < 1
    ? bytes
    : replaceRange(bytes, random.below(bytes.length + 1), 0, concatBytes(...Array(times).fill(range)));
}

function copyRange(bytes: Uint8Array, { random }: Mutation): Uint8Array {
  const range = anyRange(bytes, random);
  return replaceRange(bytes, random.below(bytes.length + 1), range.length, range);
}

/** The head of one input with the tail of another, or a piece of another inside. */
function splice(bytes: Uint8Array, { random, corpus }: Mutation): Uint8Array {
  const other = random.pick(corpus);
  if (random.below(2) === 0) {
    return concatBytes(
      bytes.subarray(0, random.below(bytes.length + 1)),
      other.subarray(random.below(other.length + 1)),
    );
  }
  const range = anyRange(other, random);
  return replaceRange(bytes, random.below(bytes.length + 1), random.below(2) * range.length, range);
}

function overwriteToken(bytes: Uint8Array, { random, dictionary }: Mutation): Uint8Array {
  const token = random.pick(dictionary);
  return replaceRange(bytes, random.below(bytes.length + 1), token.length, token);
}

function insertToken(bytes: Uint8Array, { random, dictionary }: Mutation): Uint8Array {
  return replaceRange(bytes, random.below(bytes.length + 1), 0, random.pick(dictionary));
}

/**
 * Something that looks like a length of what follows it: bytes are put in or taken out there and the field is corrected,
 * or the field alone is moved a little.
 */
function resizeField(bytes: Uint8Array, { random }: Mutation): Uint8Array {
  for (let attempt = 0; attempt < 8; attempt++) {
    const field = anyField(bytes, random);
    if (field === null) return bytes;
    const value = readNumber(bytes, field);
    const start = field.at + field.width;
    if (value === 0n || value > BigInt(bytes.length - start)) continue;
    const length = Number(value);
    const change = random.below(2) === 0 ? 1 + random.below(8) : -1 - random.below(Math.min(8, length));
    const moved = writeNumber(bytes, field, value + BigInt(change));
    if (random.below(4) === 0) return moved;
    const at = start + random.below(length + 1 + Math.min(0, change));
    return change < 0
      ? replaceRange(moved, at, -change, new Uint8Array())
      : replaceRange(
          moved,
          at,
          0,
          Uint8Array.from({ length: change }, () => random.below(256)),
        );
  }
  return bytes;
}

/** A number in decimal digits, as JSON and profiles have them. */
function changeDecimal(bytes: Uint8Array, { random }: Mutation): Uint8Array {
  let at = random.below(bytes.length + 1);
  while (at < bytes.length && !isDigit(bytes[at] ?? 0)) at++;
  if (at === bytes.length) return bytes;
  let end = at;
  while (isDigit(bytes[end] ?? 0)) end++;
  return replaceRange(bytes, at, end - at, new TextEncoder().encode(`${random.pick(edges)}`));
}

function isDigit(byte: number): boolean {
  return byte >= 0x30 && byte <= 0x39;
}

interface Field {
  readonly at: number;
  readonly width: number;
  readonly little: boolean;
}

function anyField(bytes: Uint8Array, random: Random): Field | null {
  const width = random.pick(widths);
  if (bytes.length < width) return null;
  return { at: random.below(bytes.length - width + 1), width, little: random.below(2) === 0 };
}

function readNumber(bytes: Uint8Array, { at, width, little }: Field): bigint {
  let value = 0n;
  for (let index = 0; index < width; index++) {
    value = (value << 8n) | BigInt(bytes[little ? at + width - 1 - index : at + index] ?? 0);
  }
  return value;
}

function writeNumber(bytes: Uint8Array, { at, width, little }: Field, value: bigint): Uint8Array {
  const changed = bytes.slice();
  for (let index = 0; index < width; index++) {
    changed[little ? at + index : at + width - 1 - index] = Number((value >> BigInt(8 * index)) & 0xffn);
  }
  return changed;
}

function anyRange(bytes: Uint8Array, random: Random): Uint8Array {
  const start = random.below(bytes.length + 1);
  return bytes.slice(start, start + random.below(Math.min(64, bytes.length - start) + 1));
}
