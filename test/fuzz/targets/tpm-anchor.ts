import { encodeAnchor, parseAnchor } from "../../../seal/tpm-records.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const anchor = parseAnchor(bytes);
  if (anchor !== null) expectSame(bytes, encodeAnchor(anchor), "anchor");
}
