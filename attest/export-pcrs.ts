import { bankAlgorithm } from "./banks.ts";
import type { PcrSection } from "./evidence.ts";

/** Sizes of the structures in tpm2-tss: TPMS_PCR_SELECTION with its padding, TPM2B_DIGEST, and how many of them a list has room for. */
const SELECTION = 8;
const SELECTIONS = 16;
const DIGEST = 2 + 64;
const DIGESTS = 8;
const DIGEST_LIST = 4 + DIGESTS * DIGEST;

/**
 * PCR values in the "serialized" layout of tpm2-tools: what `tpm2_quote -o` writes and `tpm2_checkquote -f` reads. It is the memory
 * of TPML_PCR_SELECTION, a count, and TPML_DIGESTs of eight, little-endian. (The other layout that tpm2-tools reads, one value after
 * the other with `-l`, goes wrong there for more than seven values.)
 */
export function serializePcrs({ bank, values }: PcrSection): Uint8Array {
  const lists = Math.ceil(values.size / DIGESTS);
  const head = 4 + SELECTIONS * SELECTION;
  const bytes = new Uint8Array(head + 4 + lists * DIGEST_LIST);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 1, true);
  view.setUint16(4, bankAlgorithm(bank), true);
  view.setUint8(6, 3);
  for (const pcr of values.keys()) bytes[7 + (pcr >> 3)] = (bytes[7 + (pcr >> 3)] ?? 0) | (1 << (pcr & 7));
  view.setUint32(head, lists, true);
  [...values.values()].forEach((value, index) => {
    const list = head + 4 + Math.floor(index / DIGESTS) * DIGEST_LIST;
    const inList = index % DIGESTS;
    view.setUint32(list, inList + 1, true);
    view.setUint16(list + 4 + inList * DIGEST, value.length, true);
    bytes.set(value, list + 4 + inList * DIGEST + 2);
  });
  return bytes;
}
