import { sha256 } from "../../../policy/hash.ts";
import { encodeSlot, parseSlot } from "../../../seal/store.ts";
import { expectSame } from "../property.ts";

const digestAt = 24;
const header = digestAt + 32;

/** The digest is put right first: a mutation that only breaks it shows nothing. Bytes after the content are nobody's. */
export function run(input: Uint8Array): void {
  const bytes = input.slice();
  if (bytes.length >= header) {
    const length = new DataView(bytes.buffer).getUint32(digestAt - 4);
    const checked = [...bytes.subarray(0, digestAt), ...bytes.subarray(header, header + length)];
    bytes.set(sha256(Uint8Array.from(checked)), digestAt);
  }
  const slot = parseSlot(bytes);
  if (slot === null) return;
  const again = encodeSlot(slot.sequence, slot.content);
  expectSame(bytes.subarray(0, again.length), again, "store slot");
}
