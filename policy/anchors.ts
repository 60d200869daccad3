import * as z from "zod";
import { encodeCanonicalJson, parseCanonicalJson } from "./canonical-json.ts";
import { parseVerificationKey } from "./keys.ts";

const anchorsSchema = z
  .strictObject({
    version: z.literal(1),
    releaseRoot: z.string(),
    operator: z.string(),
  })
  .readonly();

/** The two keys a machine trusts, SubjectPublicKeyInfo PEM: who may approve release keys, and who may seal credentials for it. */
export type Anchors = z.infer<typeof anchorsSchema>;

/**
 * Reads trust anchors. They carry no signature: what makes them trustworthy is that the file is measured.
 * @throws PolicyError ERR_POLICY_MALFORMED, or ERR_KEY_MALFORMED for a key of another kind
 */
export function parseAnchors(bytes: Uint8Array): Anchors {
  const anchors = parseCanonicalJson(bytes, anchorsSchema, "ERR_POLICY_MALFORMED", "anchors");
  parseVerificationKey(anchors.releaseRoot);
  parseVerificationKey(anchors.operator);
  return anchors;
}

export function encodeAnchors(anchors: Anchors): Uint8Array {
  return encodeCanonicalJson(anchors, anchorsSchema, "ERR_POLICY_MALFORMED", "anchors");
}
