import { ByteReader, ByteWriter, equalBytes, toHex } from "./bytes.ts";
import { type ErrorFields, PolicyError } from "./errors.ts";
import { sha256 } from "./hash.ts";

// The format is described in vm-images/CABINET.md.

const MAGIC = "IRONCAB1";
const VERSION = 1;
const BLOCK = 4096;
const CHECKED = BLOCK - 32;
const NAME_SIZE = 16;
const MAX_CAPACITY = 256 * 1024 * 1024;
const MIB = 1024 * 1024;

/** Slots in their order in the partition, with the capacity in bytes that `encodeCabinet` gives them by default. */
export const CABINET_SLOTS = {
  module: 32 * MIB,
  policy: MIB,
  anchors: 64 * 1024,
  release: MIB,
  sealed: MIB,
  machine: 64 * 1024,
  token: 4 * MIB,
  enrolment: 64 * 1024,
} as const;

export type SlotName = keyof typeof CABINET_SLOTS;

const SLOT_NAMES = Object.keys(CABINET_SLOTS) as readonly SlotName[]; // the keys of a literal are exactly SlotName

export interface CabinetSlot {
  /** Where the content starts in the partition, in bytes. */
  readonly offset: number;
  readonly length: number;
  readonly bytes: Uint8Array;
}

export interface Cabinet {
  /** Bytes of the partition up to the end of the last slot. */
  readonly end: number;
  /**
   * Read one slot and check its digest; `null` when it is empty. Every call reads the device again, and a hostile disk may
   * answer differently: judge and use the bytes of one call.
   * Throws {@link PolicyError} ERR_CABINET_CHECKSUM when the content is damaged.
   */
  slot(name: SlotName): CabinetSlot | null;
}

interface SlotEntry {
  readonly name: SlotName;
  readonly offset: number;
  readonly capacity: number;
  readonly length: number;
  readonly digest: Uint8Array;
}

function malformed(what: string, fields: ErrorFields): PolicyError {
  return new PolicyError("ERR_CABINET_MALFORMED", `cabinet ${what}`, fields);
}

/** Build a whole cabinet. Slots that are not given, or are empty, are written as empty. */
export function encodeCabinet(
  slots: ReadonlyMap<SlotName, Uint8Array>,
  capacities: Readonly<Record<SlotName, number>> = CABINET_SLOTS,
): Uint8Array {
  const header = new ByteWriter().bytes(ascii(MAGIC)).u32(VERSION).u32(SLOT_NAMES.length);
  const placed: { readonly offset: number; readonly content: Uint8Array }[] = [];
  let offset = BLOCK;
  for (const name of SLOT_NAMES) {
    const content = slots.get(name) ?? new Uint8Array(0);
    const capacity = capacities[name];
    requireCapacity(name, capacity);
    if (content.length > capacity) {
      throw malformed(`slot ${name}: length`, {
        expected: `at most ${capacity} bytes`,
        got: `${content.length}`,
      });
    }
    header
      .bytes(padded(ascii(name), NAME_SIZE))
      .u64(BigInt(offset))
      .u64(BigInt(capacity))
      .u64(BigInt(content.length));
    header.bytes(content.length === 0 ? new Uint8Array(32) : sha256(content));
    placed.push({ offset, content });
    offset += capacity;
  }
  const whole = new Uint8Array(offset);
  whole.set(header.finish(), 0);
  whole.set(sha256(whole.subarray(0, CHECKED)), CHECKED);
  for (const { offset: at, content } of placed) whole.set(content, at);
  return whole;
}

/**
 * Read the header of a cabinet through `read`, which returns exactly `length` bytes at `offset` of the partition.
 *
 * Establishes that the layout is sound and undamaged. Does not establish who wrote it: nothing here is authentic.
 * Throws {@link PolicyError} ERR_CABINET_MALFORMED, ERR_CABINET_CHECKSUM or ERR_BYTES_TRUNCATED.
 */
export function openCabinet(read: (offset: number, length: number) => Uint8Array): Cabinet {
  const entries = parseHeader(readExactly(read, 0, BLOCK));
  return {
    end: Math.max(...[...entries.values()].map(({ offset, capacity }) => offset + capacity)),
    slot(name) {
      const entry = entries.get(name);
      if (entry === undefined || entry.length === 0) return null;
      const bytes = readExactly(read, entry.offset, entry.length);
      requireDigest(`slot ${name}: sha256`, entry.digest, bytes);
      return { offset: entry.offset, length: entry.length, bytes };
    },
  };
}

function parseHeader(header: Uint8Array): ReadonlyMap<SlotName, SlotEntry> {
  const reader = new ByteReader(header, "cabinet");
  if (!equalBytes(reader.bytes(8, "magic"), ascii(MAGIC)))
    throw malformed("magic", { expected: MAGIC, got: "other bytes" });
  requireDigest("header: sha256", header.subarray(CHECKED), header.subarray(0, CHECKED));
  requireNumber("version", VERSION, reader.u32("version"));
  requireNumber("slot count", SLOT_NAMES.length, reader.u32("slot count"));
  const entries = new Map<SlotName, SlotEntry>();
  let next = BLOCK;
  for (const name of SLOT_NAMES) {
    const entry = parseSlot(reader, name, next);
    entries.set(name, entry);
    next = entry.offset + entry.capacity;
  }
  if (reader.bytes(CHECKED - reader.offset, "padding").some((byte) => byte !== 0)) {
    throw malformed("header: padding", {
      expected: "zero bytes",
      got: "other bytes",
    });
  }
  return entries;
}

function parseSlot(reader: ByteReader, name: SlotName, start: number): SlotEntry {
  if (!equalBytes(reader.bytes(NAME_SIZE, "name"), padded(ascii(name), NAME_SIZE))) {
    throw malformed("slot: name", { expected: name, got: "another name" });
  }
  requireNumber(`slot ${name}: offset`, start, Number(reader.u64("offset")));
  const capacity = Number(reader.u64("capacity"));
  requireCapacity(name, capacity);
  const length = Number(reader.u64("length"));
  if (length > capacity)
    throw malformed(`slot ${name}: length`, {
      expected: `at most ${capacity} bytes`,
      got: `${length}`,
    });
  const digest = reader.bytes(32, "sha256");
  if (length === 0 && digest.some((byte) => byte !== 0)) {
    throw malformed(`slot ${name}: sha256`, {
      expected: "zero bytes for an empty slot",
      got: toHex(digest),
    });
  }
  return { name, offset: start, capacity, length, digest };
}

function requireCapacity(name: SlotName, capacity: number): void {
  if (capacity >= BLOCK && capacity <= MAX_CAPACITY && capacity % BLOCK === 0) return;
  throw malformed(`slot ${name}: capacity`, {
    expected: `a multiple of ${BLOCK} from ${BLOCK} to ${MAX_CAPACITY}`,
    got: `${capacity}`,
  });
}

function requireNumber(what: string, expected: number, got: number): void {
  if (expected !== got) throw malformed(what, { expected: `${expected}`, got: `${got}` });
}

function requireDigest(what: string, expected: Uint8Array, content: Uint8Array): void {
  const got = sha256(content);
  if (equalBytes(expected, got)) return;
  throw new PolicyError("ERR_CABINET_CHECKSUM", `cabinet ${what}`, {
    expected: toHex(expected),
    got: toHex(got),
  });
}

function readExactly(read: (offset: number, length: number) => Uint8Array, offset: number, length: number): Uint8Array {
  const bytes = read(offset, length);
  if (bytes.length === length) return bytes;
  throw new PolicyError("ERR_BYTES_TRUNCATED", "cabinet: read", {
    expected: `${length} bytes at offset ${offset}`,
    got: `${bytes.length}`,
  });
}

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

function padded(bytes: Uint8Array, size: number): Uint8Array {
  const whole = new Uint8Array(size);
  whole.set(bytes);
  return whole;
}
