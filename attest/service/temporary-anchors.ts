import type { TrustAnchor } from "../index.ts";
export function parseEndorsementAnchors(bytes: Uint8Array): readonly TrustAnchor[] {
  return (JSON.parse(new TextDecoder().decode(bytes)) as { anchors: TrustAnchor[] }).anchors;
}
