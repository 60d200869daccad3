import fc from "fast-check";
import { type AppraisalPolicyDocument, assuranceClasses, imageVariants } from "../../attest/index.ts";

const digest = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => bytes.toHex());
const path = fc.stringMatching(/^\/[a-z.]{1,20}$/);
const library = fc.record({
  name: path,
  sha256: digest,
  closure: fc.oneof(fc.constant("as-released" as const), fc.dictionary(path, digest, { noNullPrototype: true })),
});

/** Every document that the format allows, within reason. */
export const anyAppraisalPolicy: fc.Arbitrary<AppraisalPolicyDocument> = fc.record({
  version: fc.constant(2 as const),
  name: fc.stringMatching(/^[A-Za-z0-9_.-]{1,64}$/),
  releases: fc.oneof(
    fc.constant("any" as const),
    fc.uniqueArray(fc.string({ minLength: 1, maxLength: 20 }), { maxLength: 4 }),
  ),
  variants: fc.uniqueArray(fc.constantFrom(...imageVariants)),
  minAssurance: fc.constantFrom(...assuranceClasses),
  freshness: fc.record({ maxAgeSeconds: fc.integer({ min: 1, max: 86_400 }) }),
  libraries: fc.oneof(fc.constant("as-released" as const), fc.array(library, { maxLength: 3 })),
  profiles: fc.oneof(fc.constant("as-released" as const), fc.uniqueArray(digest, { maxLength: 3 })),
  keyAttributes: fc
    .dictionary(fc.stringMatching(/^[a-z][A-Za-z]{0,20}$/), fc.boolean(), { noNullPrototype: true })
    .map((attributes) => ({ ...attributes, sensitive: true, extractable: false })),
  maxViolations: fc.nat(),
  reboot: fc.constantFrom("warn", "accept", "refuse"),
  firmware: fc.constantFrom("pinned", "warn", "waived"),
});
