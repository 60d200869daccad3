import { type PeImage, parsePe } from "../attest/index.ts";

/** Section alignment of the stub, which is the page size. */
export const SECTION_ALIGNMENT = 4096;

// parsePe names CheckSum's offset; the fields next to it have fixed distances from it in a PE32+ file.
const timeDateStampOffset = (image: PeImage): number => image.checksumOffset - 80;
const imageBaseOffset = (image: PeImage): number => image.checksumOffset - 40;

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/**
 * The first aligned address behind the last section of a PE32+ image, with the image base, as objcopy counts.
 * Throws AttestError ERR_PE_MALFORMED.
 */
export function endOfSections(bytes: Uint8Array): number {
  const image = parsePe(bytes);
  const base = Number(viewOf(bytes).getBigUint64(imageBaseOffset(image), true));
  const end = Math.max(0, ...image.sections.map((section) => section.virtualAddress + section.virtualSize));
  return base + Math.ceil(end / SECTION_ALIGNMENT) * SECTION_ALIGNMENT;
}

/**
 * A copy with TimeDateStamp and CheckSum zeroed. The linker writes the current time, which is inside the Authenticode
 * digest: left alone, PCR 4 would change with every build.
 */
export function clearPeTimes(bytes: Uint8Array): Uint8Array {
  const image = parsePe(bytes);
  const copy = Uint8Array.from(bytes);
  viewOf(copy).setUint32(timeDateStampOffset(image), 0, true);
  viewOf(copy).setUint32(image.checksumOffset, 0, true);
  return copy;
}
