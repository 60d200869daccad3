import { encodeEndorsementAnchors, parseEndorsementAnchors } from "../../../attest/endorsement-anchors.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const encoded = encodeEndorsementAnchors(parseEndorsementAnchors(bytes));
  expectSame(encoded, encodeEndorsementAnchors(parseEndorsementAnchors(encoded)), "trust anchors");
}
