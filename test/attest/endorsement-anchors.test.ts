import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import * as z from "zod";
import { verifyEndorsement } from "../../attest/endorsement.ts";
import {
  encodeEndorsementAnchors,
  endorsementAnchorsSchema,
  parseEndorsementAnchors,
} from "../../attest/endorsement-anchors.ts";
import type { TrustAnchor } from "../../attest/endorsement-chain.ts";
import { assuranceClasses } from "../../attest/enrolment.ts";
import { AttestError } from "../../attest/errors.ts";
import { utf8 } from "../../policy/index.ts";
import { readVendorChain, toPem } from "../support/vendor-chains.ts";

const authorities = [
  "infineon-rsa",
  "infineon-ecc",
  "nuvoton-rsa",
  "stm-rsa",
  "stm-ecc",
  "google-uca-rsa",
  "google-pca-rsa",
].flatMap((name) => readVendorChain(name).slice(1).map(toPem));
const [pem = ""] = authorities;
const one: TrustAnchor = {
  ...{
    name: "Infineon RSA 035",
    pem,
    assurance: "hardware-ek",
    requireEkPurpose: true,
    manufacturers: ["id:49465800"],
  },
};
const document = (anchors: unknown, changes: object = {}) => utf8(JSON.stringify({ version: 1, anchors, ...changes }));
const refused = (bytes: Uint8Array) => {
  expect(() => parseEndorsementAnchors(bytes)).toThrow(AttestError);
  expect(() => parseEndorsementAnchors(bytes)).toThrow(
    expect.objectContaining({ code: "ERR_TRUST_ANCHORS", exitCode: 3 }),
  );
};

const anyAnchors = fc
  .uniqueArray(fc.constantFrom(...new Set(authorities)), { minLength: 1, maxLength: 6 })
  .chain((pems) =>
    fc.tuple(
      ...pems.map((each, index) =>
        fc.record({
          name: fc.constant(`anchor ${index}`),
          pem: fc.constant(each),
          assurance: fc.constantFrom(...assuranceClasses),
          requireEkPurpose: fc.boolean(),
          manufacturers: fc.oneof(
            fc.constant("any" as const),
            fc.array(fc.stringMatching(/^id:[0-9A-F]{8}$/), { minLength: 1, maxLength: 4 }),
          ),
        }),
      ),
    ),
  );

describe("a document of trust anchors", () => {
  it("I9: it is read as it was written", () => {
    fc.assert(
      fc.property(
        anyAnchors,
        (anchors) => void expect(parseEndorsementAnchors(encodeEndorsementAnchors(anchors))).toEqual(anchors),
      ),
      { numRuns: 30 },
    );
  });

  it("I10: a damaged one is refused by a typed error, or means something", () => {
    const whole = encodeEndorsementAnchors([one]);
    fc.assert(
      fc.property(fc.nat(whole.length - 2), fc.nat(255), (index, octet) => {
        try {
          expect(parseEndorsementAnchors(whole.with(index, octet)).length).toBe(1);
        } catch (error) {
          expect(error).toBeInstanceOf(AttestError);
        }
        refused(whole.slice(0, index));
      }),
      { numRuns: 200 },
    );
  });

  it("I9: what is missing, unknown, doubled or of another form is refused: nothing has a default", () => {
    const { assurance: _, ...unclassed } = one;
    for (const anchors of [
      [],
      [unclassed],
      [{ ...one, manufacturers: [] }],
      [{ ...one, manufacturers: ["49465800"] }],
      [{ ...one, manufacturers: ["id:4946580a"] }],
      [{ ...one, assurance: "hardware" }],
      [{ ...one, requireEkPurpose: "yes" }],
      [{ ...one, name: "" }],
      [{ ...one, name: "a\u001b[31m" }],
      [{ ...one, notes: "" }],
      [one, one],
      [one, { ...one, name: "another" }],
      [one, { ...one, pem: authorities[1] }],
      Array.from({ length: 257 }, (_, index) => ({ ...one, name: `${index}` })),
    ])
      refused(document(anchors));
    refused(document([one], { version: 2 }));
    refused(document([one], { extra: true }));
    refused(utf8(`{"version":1,"version":1,"anchors":[${JSON.stringify(one)}]}`));
  });

  it("I9: an anchor is exactly one certificate of an authority", () => {
    const [leaf = new Uint8Array()] = readVendorChain("infineon-rsa");
    for (const text of [
      "",
      "no certificate",
      `${pem}${pem}`,
      toPem(leaf),
      toPem(leaf.slice(0, -1)),
      toPem(new Uint8Array(9)),
    ])
      refused(document([{ ...one, pem: text }]));
    expect(() => parseEndorsementAnchors(document([{ ...one, pem: toPem(leaf) }]))).toThrow(
      /anchors.0.pem \(Infineon RSA 035\): expected a certificate authority, got a certificate that may not issue/,
    );
  });

  it("I9: the class of an endorsement is that of the anchor under which it verifies", () => {
    const anchors = parseEndorsementAnchors(
      encodeEndorsementAnchors([
        one,
        {
          ...one,
          name: "Google",
          pem: toPem(readVendorChain("google-uca-ecc").at(-1) ?? new Uint8Array()),
          assurance: "provider-ek",
          manufacturers: ["id:474F4F47"],
        },
      ]),
    );
    const at = new Date("2027-01-01T00:00:00Z");
    expect(verifyEndorsement(readVendorChain("infineon-rsa"), anchors, at)).toMatchObject({
      assurance: "hardware-ek",
      anchor: "Infineon RSA 035",
    });
    expect(verifyEndorsement(readVendorChain("google-uca-ecc"), anchors, at)).toMatchObject({
      assurance: "provider-ek",
      anchor: "Google",
    });
    expect(() => verifyEndorsement(readVendorChain("stm-ecc"), anchors, at)).toThrow(/pinned authority/);
  });

  it("the JSON Schema beside the parser says what the parser does", () => {
    const file = join(import.meta.dirname, "..", "..", "attest", "endorsement-anchors.schema.json");
    const { title, ...published } = JSON.parse(readFileSync(file, "utf8"));
    expect(title).toBe("IronClaw trust anchors, version 1");
    expect(published).toEqual(z.toJSONSchema(endorsementAnchorsSchema));
  });
});
