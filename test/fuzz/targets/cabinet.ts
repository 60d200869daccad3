import { ByteReader } from "../../../policy/bytes.ts";
import { CABINET_SLOTS, encodeCabinet, openCabinet, type SlotName } from "../../../policy/cabinet.ts";
import { sha256 } from "../../../policy/hash.ts";
import { expectSame } from "../property.ts";

export const maxLength = 48 * 1024;

const names = Object.keys(CABINET_SLOTS) as readonly SlotName[]; // the keys of a literal

/**
 * The header's digest is put right first: a mutation that only breaks it shows nothing. Every slot is read too, and what was
 * read gives the header back.
 */
export function run(input: Uint8Array): void {
  const bytes = repaired(input);
  const cabinet = openCabinet((offset, length) => bytes.slice(offset, offset + length));
  const slots = new Map(names.map((name) => [name, cabinet.slot(name)?.bytes ?? new Uint8Array()]));
  expectSame(bytes.subarray(0, 4096), encodeCabinet(slots, capacitiesOf(bytes)).subarray(0, 4096), "cabinet header");
}

function repaired(input: Uint8Array): Uint8Array {
  const bytes = input.slice();
  if (bytes.length >= 4096) bytes.set(sha256(bytes.subarray(0, 4064)), 4064);
  return bytes;
}

function capacitiesOf(bytes: Uint8Array): Record<SlotName, number> {
  const capacity = (_: SlotName, index: number) =>
    Number(new ByteReader(bytes.slice(40 + 72 * index), "").u64("capacity"));
  return Object.fromEntries(names.map((name, index) => [name, capacity(name, index)])) as Record<SlotName, number>; // every name
}
