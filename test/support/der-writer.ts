import type { DerElement } from "../../attest/der.ts";
import { ByteWriter } from "../../policy/bytes.ts";

/** Elements one after another, lengths in their shortest form. The project itself only reads DER of this generality. */
export function encodeDer(elements: readonly DerElement[]): Uint8Array {
  const writer = new ByteWriter();
  for (const { tag, content } of elements) {
    const { length } = content;
    writer.u8(tag);
    if (length < 0x80) writer.u8(length);
    else if (length < 0x100) writer.u8(0x81).u8(length);
    else if (length < 0x10000) writer.u8(0x82).u16(length);
    else
      writer
        .u8(0x83)
        .u8(length >> 16)
        .u16(length & 0xffff);
    writer.bytes(content);
  }
  return writer.finish();
}
