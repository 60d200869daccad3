import { fromBase64 } from "./bytes.ts";

/**
 * What the blocks of a label encode in a text that people bring, in their order; none where no block begins. As RFC 7468 asks of a reader: anything may
 * stand around a block, and its lines have any length and any end. What is signed or measured has one spelling and another reader.
 * @returns `null` where a block that begins does not end, or holds something else than base64
 */
export function pemBlocks(text: string, label: string): readonly Uint8Array[] | null {
  const [, ...begun] = text.split(`-----BEGIN ${label}-----`);
  const blocks = begun.map((rest) => bodyOf(rest, `-----END ${label}-----`));
  return blocks.every((block) => block !== null) ? blocks : null;
}

function bodyOf(text: string, end: string): Uint8Array | null {
  const length = text.indexOf(end);
  try {
    return length < 0 ? null : fromBase64(text.slice(0, length).replaceAll(/\s/g, ""));
  } catch {
    return null;
  }
}
