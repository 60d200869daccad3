import { encodeAnchors, parseAnchors } from "../../../policy/anchors.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeAnchors(parseAnchors(bytes)), "anchors");
}
