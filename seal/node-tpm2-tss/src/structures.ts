import { Reader, U16_MAX, U32_MAX, unsigned } from "./bytes.ts";
import { CAPABILITY, HASH, HASH_SIZE, type HashName, hashName } from "./constants.ts";

/** The PCRs of one bank. Indices 0 to 23, each once; an empty list selects nothing. */
export interface PcrSelection {
  readonly bank: HashName;
  readonly pcrs: readonly number[];
}

const SELECT_BYTES = 3;
export const MAX_PCR = SELECT_BYTES * 8 - 1;

/** TPML_DIGEST: u32 count, then each digest with a u16 size. 2 to 8 digests make a PolicyOR. */
export function encodeDigestList(digests: readonly Uint8Array[]): Uint8Array {
  const size = digests.reduce((sum, digest) => sum + 2 + digest.length, 4);
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, digests.length);
  let at = 4;
  for (const digest of digests) {
    view.setUint16(at, digest.length);
    bytes.set(digest, at + 2);
    at += 2 + digest.length;
  }
  return bytes;
}

/** TPML_PCR_SELECTION with three select bytes a bank. Throws a TypeError for an index out of range or given twice. */
export function encodePcrSelection(selections: readonly PcrSelection[]): Uint8Array {
  const bytes = new Uint8Array(4 + selections.length * (3 + SELECT_BYTES));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, selections.length);
  selections.forEach(({ bank, pcrs }, position) => {
    const start = 4 + position * (3 + SELECT_BYTES);
    view.setUint16(start, HASH[bank]);
    view.setUint8(start + 2, SELECT_BYTES);
    for (const pcr of pcrs) {
      unsigned("pcr", pcr, MAX_PCR);
      const at = start + 3 + (pcr >> 3);
      const bit = 1 << (pcr & 7);
      if ((view.getUint8(at) & bit) !== 0) throw new TypeError(`pcr: ${pcr} is given twice`);
      view.setUint8(at, view.getUint8(at) | bit);
    }
  });
  return bytes;
}

/**
 * The inverse; indices ascend. Throws TpmFormatError, also for a bank of an unknown algorithm: who extends or quotes every
 * active bank must not be told of fewer.
 */
export function parsePcrSelection(bytes: Uint8Array): readonly PcrSelection[] {
  const reader = new Reader(bytes, "TPML_PCR_SELECTION");
  const selections = readPcrSelection(reader);
  reader.end();
  return selections;
}

function readPcrSelection(reader: Reader): readonly PcrSelection[] {
  const selections: PcrSelection[] = [];
  for (let left = reader.u32(); left > 0; left--) {
    const bank = readHashName(reader);
    const size = reader.u8();
    if (size !== SELECT_BYTES) throw reader.malformed(`sizeofSelect: expected ${SELECT_BYTES}, got ${size}`);
    const select = reader.bytes(SELECT_BYTES);
    const isSelected = (pcr: number) => ((select[pcr >> 3] ?? 0) & (1 << (pcr & 7))) !== 0;
    selections.push({ bank, pcrs: Array.from({ length: MAX_PCR + 1 }, (_, pcr) => pcr).filter(isSelected) });
  }
  return selections;
}

function readHashName(reader: Reader): HashName {
  const algorithm = reader.u16();
  const name = hashName(algorithm);
  if (name === null) throw reader.malformed(`expected a hash algorithm, got 0x${algorithm.toString(16)}`);
  return name;
}

/** TPML_DIGEST_VALUES. Throws a TypeError when a digest's size is not its algorithm's. */
export function encodeDigestValues(digests: ReadonlyMap<HashName, Uint8Array>): Uint8Array {
  const parts: number[] = [0, 0, 0, digests.size];
  for (const [name, digest] of digests) {
    if (digest.length !== HASH_SIZE[name])
      throw new TypeError(`${name} digest: expected ${HASH_SIZE[name]} bytes, got ${digest.length}`);
    parts.push(HASH[name] >> 8, HASH[name] & 0xff, ...digest);
  }
  return Uint8Array.from(parts);
}

/** The inverse. Throws TpmFormatError, also for an algorithm that is unknown or given twice. */
export function parseDigestValues(bytes: Uint8Array): ReadonlyMap<HashName, Uint8Array> {
  const reader = new Reader(bytes, "TPML_DIGEST_VALUES");
  const digests = new Map<HashName, Uint8Array>();
  for (let left = reader.u32(); left > 0; left--) {
    const name = readHashName(reader);
    if (digests.has(name)) throw reader.malformed(`${name} is given twice`);
    digests.set(name, reader.bytes(HASH_SIZE[name]));
  }
  reader.end();
  return digests;
}

/** TPMS_NV_PUBLIC: what an NV index is. Its digest is the index's Name. */
export interface NvPublic {
  /** The TPM's handle, 0x01xxxxxx. */
  readonly index: number;
  readonly nameAlg: HashName;
  /** TPMA_NV. Bits 4 to 7 are the type: 0 ordinary, 1 counter, 2 bits, 4 extend. */
  readonly attributes: number;
  /** Empty, or a digest of the size of `nameAlg`. */
  readonly authPolicy: Uint8Array;
  readonly dataSize: number;
}

/** Throws a TypeError for a number out of its range. */
export function encodeNvPublic({ index, nameAlg, attributes, authPolicy, dataSize }: NvPublic): Uint8Array {
  const bytes = new Uint8Array(14 + authPolicy.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, unsigned("index", index, U32_MAX));
  view.setUint16(4, HASH[nameAlg]);
  view.setUint32(6, unsigned("attributes", attributes, U32_MAX));
  view.setUint16(10, unsigned("authPolicy size", authPolicy.length, U16_MAX));
  bytes.set(authPolicy, 12);
  view.setUint16(12 + authPolicy.length, unsigned("dataSize", dataSize, U16_MAX));
  return bytes;
}

/** The inverse. Throws TpmFormatError. */
export function parseNvPublic(bytes: Uint8Array): NvPublic {
  const reader = new Reader(bytes, "TPMS_NV_PUBLIC");
  const index = reader.u32();
  const nameAlg = readHashName(reader);
  const attributes = reader.u32();
  const authPolicy = reader.bytes(reader.u16());
  const dataSize = reader.u16();
  reader.end();
  return { index, nameAlg, attributes, authPolicy, dataSize };
}

/** TPMS_TIME_INFO. */
export interface TimeInfo {
  /** Milliseconds since the TPM was powered on. */
  readonly time: bigint;
  /** Milliseconds that the TPM was on since it was last cleared. */
  readonly clock: bigint;
  /** TPM Resets since the last Clear. */
  readonly resetCount: number;
  /** TPM Restarts and Resumes since the last Reset. */
  readonly restartCount: number;
  /** Whether no greater `clock` was ever answered. */
  readonly safe: boolean;
}

/** Throws TpmFormatError. */
export function parseTimeInfo(bytes: Uint8Array): TimeInfo {
  const reader = new Reader(bytes, "TPMS_TIME_INFO");
  const [time, clock, resetCount, restartCount, safe] = [
    reader.u64(),
    reader.u64(),
    reader.u32(),
    reader.u32(),
    reader.u8(),
  ];
  if (safe > 1) throw reader.malformed(`safe: expected 0 or 1, got ${safe}`);
  reader.end();
  return { time, clock, resetCount, restartCount, safe: safe === 1 };
}

/** TPMS_CAPABILITY_DATA of TPM_CAP_HANDLES. Throws TpmFormatError. */
export function parseHandles(data: Uint8Array): readonly number[] {
  return parseCapability(data, CAPABILITY.handles, (reader) => readList(reader, () => reader.u32()));
}

/** TPMS_CAPABILITY_DATA of TPM_CAP_TPM_PROPERTIES: values by property. Throws TpmFormatError. */
export function parseProperties(data: Uint8Array): ReadonlyMap<number, number> {
  return parseCapability(data, CAPABILITY.tpmProperties, (reader) => {
    const values = readList(reader, () => [reader.u32(), reader.u32()] as const);
    const properties = new Map(values);
    if (properties.size !== values.length) throw reader.malformed("a property is given twice");
    return properties;
  });
}

/** TPMS_CAPABILITY_DATA of TPM_CAP_PCRS. Throws TpmFormatError. */
export function parsePcrBanks(data: Uint8Array): readonly PcrSelection[] {
  return parseCapability(data, CAPABILITY.pcrs, readPcrSelection);
}

function parseCapability<T>(data: Uint8Array, expected: number, readData: (reader: Reader) => T): T {
  const reader = new Reader(data, "TPMS_CAPABILITY_DATA");
  const capability = reader.u32();
  if (capability !== expected) throw reader.malformed(`capability: expected ${expected}, got ${capability}`);
  const value = readData(reader);
  reader.end();
  return value;
}

function readList<T>(reader: Reader, readOne: () => T): readonly T[] {
  const list: T[] = [];
  for (let left = reader.u32(); left > 0; left--) list.push(readOne());
  return list;
}
