import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  AttestError,
  appraisalPolicyJsonSchema,
  defaultAppraisalPolicy,
  encodeAppraisalPolicy,
  parseAppraisalPolicy,
} from "../../attest/index.ts";
import { sha256Hex, utf8 } from "../../policy/index.ts";

const good = defaultAppraisalPolicy.document;
const library = { name: "/usr/lib/x.so", sha256: "11".repeat(32), closure: "as-released" };
const refusal = (text: string) => {
  try {
    parseAppraisalPolicy(utf8(text));
  } catch (error) {
    if (error instanceof AttestError) return `${error.code} ${error.message}`;
    throw error;
  }
  return "accepted";
};

describe("the appraisal policy", () => {
  it("I9: the default is strict: release images, no software TPM, pinned firmware, no violation, five minutes", () => {
    expect(good).toEqual({
      ...{ version: 2, name: "default", releases: "any", variants: ["release"], minAssurance: "provider-ek" },
      ...{ freshness: { maxAgeSeconds: 300 }, libraries: "as-released", profiles: "as-released" },
      keyAttributes: { sensitive: true, extractable: false },
      ...{ maxViolations: 0, reboot: "warn", firmware: "pinned" },
    });
    expect(defaultAppraisalPolicy.sha256).toBe(sha256Hex(encodeAppraisalPolicy(good)));
  });

  it("I9: its digest is that of the file, comments included", () => {
    const text = `// who may be affirmed\n${JSON.stringify(good)}/* "until" // spring */\n`;
    expect(parseAppraisalPolicy(utf8(text))).toEqual({ document: good, sha256: sha256Hex(utf8(text)) });
  });

  it.each(Object.keys(good))("I9: absent means refuse: without %s there is no policy", (field) => {
    const { [field]: _left, ...rest } = good as Record<string, unknown>;
    expect(refusal(JSON.stringify(rest))).toMatch(
      new RegExp(`^ERR_APPRAISAL_POLICY appraisal policy ${field}: expected .*, got nothing$`),
    );
  });

  it.each<[string, string, object]>([
    ["an unknown field", "document: expected no other field, got requireCapped", { requireCapped: true }],
    ["version 1", "version: expected 2, got 1", { version: 1 }],
    ["a name with a space", 'name: expected 1 to 64 letters.*, got "a b"', { name: "a b" }],
    [
      "another word for any release",
      'releases: expected "any" or a list of release names, got "all"',
      { releases: "all" },
    ],
    ["a release twice", "releases: expected each name once, got a list of 2", { releases: ["a", "a"] }],
    [
      "an unknown variant",
      'variants.0: expected "demo" or "dev" or "installed" or "release", got "test"',
      { variants: ["test"] },
    ],
    ["an unknown class", 'minAssurance: expected "software-tpm".*, got "any"', { minAssurance: "any" }],
    ["no age at all", "freshness.maxAgeSeconds: expected at least 1, got 0", { freshness: { maxAgeSeconds: 0 } }],
    [
      "an age of more than a day",
      "freshness.maxAgeSeconds: expected at most 86400",
      { freshness: { maxAgeSeconds: 86401 } },
    ],
    ["another field of freshness", "freshness: expected no other field", { freshness: { maxAgeSeconds: 1, skew: 1 } }],
    [
      "a library without closure",
      "libraries.0.closure: expected .*, got nothing",
      { libraries: [{ ...library, closure: undefined }] },
    ],
    [
      "a closure with half a digest",
      "libraries.0.closure./a: expected 64 lower-case",
      { libraries: [{ ...library, closure: { "/a": "11" } }] },
    ],
    [
      "a profile in upper case",
      "profiles.0: expected 64 lower-case hexadecimal digits",
      { profiles: ["AA".repeat(32)] },
    ],
    [
      "extractable keys",
      "keyAttributes: expected nothing but sensitive: true and extractable: false",
      { keyAttributes: { extractable: true } },
    ],
    [
      "keys that are not sensitive",
      "keyAttributes: expected nothing but sensitive",
      { keyAttributes: { sensitive: false } },
    ],
    ["an attribute that is no name", "keyAttributes", { keyAttributes: { "not a name": true } }],
    ["less than no violation", "maxViolations: expected at least 0, got -1", { maxViolations: -1 }],
    [
      "another word for a restart",
      'reboot: expected "warn" or "accept" or "refuse", got "ignore"',
      { reboot: "ignore" },
    ],
    ["another word for firmware", 'firmware: expected "pinned" or "warn" or "waived", got true', { firmware: true }],
  ])("I9: a policy with %s is refused, with the field and what was expected", (_title, message, changes) => {
    expect(refusal(JSON.stringify({ ...good, ...changes }))).toMatch(
      new RegExp(`^ERR_APPRAISAL_POLICY appraisal policy ${message}`),
    );
  });

  it.each([
    ["an array", "[]"],
    ["half a document", "{"],
    ["a field twice", JSON.stringify(good).replace('"version"', '"version":2,"version"')],
    ["a comment without an end", `${JSON.stringify(good)} /* no end`],
    ["a trailing comma", JSON.stringify(good).replace(/\}$/, ",}")],
    ["64 KiB of spaces", `${JSON.stringify(good)}${" ".repeat(1 << 16)}`],
    ["six levels", JSON.stringify({ ...good, name: [[[[[[]]]]]] })],
  ])("I10: %s is refused with a typed error", (_title, text) => {
    expect(refusal(text)).toMatch(/^ERR_APPRAISAL_POLICY appraisal policy/);
  });

  it("the published JSON Schema is that of the reader, and every field has a description", () => {
    const published: unknown = JSON.parse(
      readFileSync(new URL("../../attest/appraisal-policy.schema.json", import.meta.url), "utf8"),
    );
    const schema = appraisalPolicyJsonSchema() as { properties: Record<string, { description?: string }> };
    expect(published).toEqual(schema);
    expect(Object.keys(schema.properties)).toEqual(Object.keys(good));
    for (const property of Object.values(schema.properties)) expect(property.description).toMatch(/\.$/);
  });
});
