import { HASH, HASH_SIZE, type HashName, hashName } from "./constants.ts";

/** The PCRs of one bank. Indices 0 to 23, each once; an empty list selects nothing. */
export interface PcrSelection {
  readonly bank: HashName;
  readonly pcrs: readonly number[];
}

const SELECT_BYTES = 3;
const MAX_PCR = SELECT_BYTES * 8 - 1;

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
      if (!Number.isInteger(pcr) || pcr < 0 || pcr > MAX_PCR)
        throw new TypeError(`pcr: expected 0 to ${MAX_PCR}, got ${pcr}`);
      const at = start + 3 + (pcr >> 3);
      const bit = 1 << (pcr & 7);
      if ((view.getUint8(at) & bit) !== 0) throw new TypeError(`pcr: ${pcr} is given twice`);
      view.setUint8(at, view.getUint8(at) | bit);
    }
  });
  return bytes;
}

/** The inverse, for what the TPM answered; banks of unknown algorithms are left out. Indices ascend. */
export function parsePcrSelection(bytes: Uint8Array): readonly PcrSelection[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const selections: PcrSelection[] = [];
  let offset = 4;
  for (let left = view.getUint32(0); left > 0; left--) {
    const bank = hashName(view.getUint16(offset));
    const size = view.getUint8(offset + 2);
    const pcrs: number[] = [];
    for (let pcr = 0; pcr < size * 8; pcr++) {
      if ((view.getUint8(offset + 3 + (pcr >> 3)) & (1 << (pcr & 7))) !== 0) pcrs.push(pcr);
    }
    if (bank !== null) selections.push({ bank, pcrs });
    offset += 3 + size;
  }
  return selections;
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

/** TPMS_NV_PUBLIC. */
export interface NvPublic {
  readonly index: number;
  readonly attributes: number;
  readonly dataSize: number;
}

export function parseNvPublic(bytes: Uint8Array): NvPublic {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const policySize = view.getUint16(10);
  return {
    index: view.getUint32(0),
    attributes: view.getUint32(6),
    dataSize: view.getUint16(12 + policySize),
  };
}

/** The list inside TPMS_CAPABILITY_DATA for TPM_CAP_HANDLES. */
export function parseHandles(data: Uint8Array): readonly number[] {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return Array.from({ length: view.getUint32(4) }, (_, position) => view.getUint32(8 + 4 * position));
}

/** The list inside TPMS_CAPABILITY_DATA for TPM_CAP_TPM_PROPERTIES. */
export function parseProperties(data: Uint8Array): ReadonlyMap<number, number> {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return new Map(
    Array.from({ length: view.getUint32(4) }, (_, position) => [
      view.getUint32(8 + 8 * position),
      view.getUint32(12 + 8 * position),
    ]),
  );
}
