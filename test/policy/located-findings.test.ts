import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { findingsOf, type LocatedFinding, locateFindings } from "../../policy/located-findings.ts";
import { parsePolicy } from "../../policy/policy.ts";
import { lintPolicy } from "../../policy/policy-lint.ts";
import { decryptionScopes } from "../support/broker-fixture.ts";
import {
  type PolicyDocument,
  policyDocument,
  twoModuleDocument,
  twoTokenDocument,
} from "../support/policy-document.ts";

const bytesOf = (text: string) => new TextEncoder().encode(text);
const written = (document: unknown) => `// a policy \u{1f600}\n${JSON.stringify(document, null, 2)}\n`;

function findingsIn(text: string): readonly LocatedFinding[] {
  try {
    parsePolicy(bytesOf(text));
  } catch (error) {
    return findingsOf(bytesOf(text), error) ?? [];
  }
  return [];
}

/** The rest of the line that a finding points to. */
function tokenAt(text: string, { position }: LocatedFinding): string {
  return text.split("\n")[(position?.line ?? 0) - 1]?.slice((position?.column ?? 0) - 1) ?? "";
}

/** What each finding of a broken document points to, with its message. */
function pointed(document: PolicyDocument, change: (document: PolicyDocument) => void): readonly (readonly string[])[] {
  change(document);
  const text = written(document);
  return findingsIn(text).map((finding) => [tokenAt(text, finding).replace(/,$/, ""), finding.message]);
}

const scope = (document: PolicyDocument, index = 0) => document.scopes[index] ?? {};
const own = (document: PolicyDocument, field: string) => document[field] as Record<string, Record<string, unknown>>;

describe("a finding in a policy", () => {
  it.each<[string, PolicyDocument, (document: PolicyDocument) => void, readonly (readonly [string, RegExp])[]]>([
    [
      "an unknown field",
      policyDocument(),
      (d) => Object.assign(d, { Wildcard: "*" }),
      [['"Wildcard": "*"', /unrecognized key: "Wildcard"/]],
    ],
    ["a missing field", policyDocument(), (d) => delete d["owner"], [["{", /^owner: /]]],
    ["a value of another type", policyDocument(), (d) => Object.assign(d, { serial: "7" }), [['"7"', /^serial: /]]],
    [
      "a name that is none",
      policyDocument(),
      (d) => Object.assign(d.keys, { Vault: d.keys["vault"] }),
      [['"Vault": {', /^keys\.Vault: expected a name/]],
    ],
    [
      "a key that is named by its label",
      policyDocument(),
      (d) => Object.assign(d.keys, { vault: { label: "vault", does: "decrypt" } }),
      [
        ['"vault": {', /^keys\.vault\.spki: /],
        ['"label": "vault"', /^keys\.vault: unrecognized key: "label"/],
        ['"vault"', /^keys\.vault: a key is named by its spki, .*never by its label/],
      ],
    ],
    [
      "several findings, in the order of the text",
      policyDocument(),
      (d) => Object.assign(d, { version: 9, serial: 0, onViolation: "ask" }),
      [
        ["9", /version/],
        ["0", /serial/],
        ['"ask"', /onViolation/],
      ],
    ],
    [
      "an unknown key, by the short form's field",
      policyDocument(),
      (d) => Object.assign(scope(d), { key: "nobody" }),
      [['"nobody"', /^scope release-signing: unknown key nobody$/]],
    ],
    [
      "an unknown key among several",
      policyDocument(),
      (d) => void Object.assign(scope(d), { key: undefined, keys: ["release-ec", "nobody"] }),
      [['"nobody"', /unknown key nobody/]],
    ],
    [
      "an unknown caller",
      policyDocument(),
      (d) => Object.assign(scope(d, 1), { caller: "x" }),
      [['"x"', /unknown caller x/]],
    ],
    [
      "a mechanism of another use",
      policyDocument(),
      (d) => Object.assign(scope(d, 1), { mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }] }),
      [['"CKM_RSA_PKCS_OAEP"', /is for decrypt or unwrap/]],
    ],
    [
      "a digest that is missing",
      policyDocument(),
      (d) => Object.assign(scope(d, 1), { mechanisms: [{ type: "CKM_RSA_PKCS" }] }),
      [["{", /needs a digest/]],
    ],
    [
      "two scopes of one name",
      policyDocument(),
      (d) => Object.assign(scope(d, 1), { name: "release-signing" }),
      [['"release-signing"', /duplicate name/]],
    ],
    [
      "a profile without its nodes, in the short form",
      policyDocument(),
      (d) => Object.assign(d, { profile: { name: "usb", sha256: "ab".repeat(32) }, nodes: [] }),
      [["[]", /nodes: profile usb has at least one/]],
    ],
    [
      "a file that is pinned twice, in the short form",
      policyDocument(),
      (d) => Object.assign(own(d, "module"), { config: { "/lib/x86_64-linux-gnu/libc.so.6": "ab".repeat(32) } }),
      [[`"${"ab".repeat(32)}"`, /is listed twice/]],
    ],
    [
      "a credential's file in no directory, in the short form",
      policyDocument(),
      (d) => Object.assign(d, { credentials: { pin: "hsm-pin", files: { "/etc/k": "tls-key" } } }),
      [['"tls-key"', /in no writable directory/]],
    ],
    [
      "a token of an unknown module",
      twoModuleDocument(),
      (d) => Object.assign(own(d, "tokens")["signing"] ?? {}, { module: "none" }),
      [
        ['"softhsm": {', /no token is reached/],
        ['"none"', /unknown module none/],
      ],
    ],
    [
      "a key that does two things",
      twoTokenDocument(),
      (d) => Object.assign(d.keys, { copy: { spki: `sha256:${"33".repeat(32)}`, does: "sign", token: "payments" } }),
      [['"sign"', /two uses/]],
    ],
    [
      "approvals that cannot be met",
      policyDocument(),
      (d) => Object.assign(scope(d), { approvals: { required: 1, of: ["alice"], for: "window", window: "PT1M" } }),
      [
        ["1", /1 required, and 0 may approve/],
        ['"alice"', /unknown approver alice/],
      ],
    ],
  ])("I6: %s is shown where it stands", (_, document, change, expected) => {
    const found = pointed(document, change);
    expect(found.map(([token]) => token)).toEqual(expected.map(([token]) => token));
    for (const [index, [, message]] of expected.entries()) expect(found[index]?.[1]).toMatch(message);
  });

  it("I6: a text that is no JSON has one finding, where it goes wrong, and a file that is no text has none with a place", () => {
    const text = written(policyDocument()).replace('"serial": 7', '"serial": 7,\n  "serial": 8');
    expect(findingsIn(text).map((finding) => [tokenAt(text, finding), finding.position])).toEqual([
      ['"serial": 8,', { line: 5, column: 3 }],
    ]);
    expect(findingsOf(Uint8Array.of(0xff), refused(Uint8Array.of(0xff)))).toMatchObject([{ position: null, path: [] }]);
    expect(findingsOf(new Uint8Array(), new TypeError("a defect"))).toBeNull();
  });

  it("I10: every finding and warning of a policy broken anywhere lies in its text, on a token", () => {
    const samples = [policyDocument(), twoModuleDocument(), withVault()].map(written);
    fc.assert(
      fc.property(
        fc.constantFrom(...samples),
        fc.nat(),
        fc.constantFrom('"x"', "0", "[]", "{}", "null"),
        (text, at, value) => {
          const scalars = [...text.matchAll(/(?<=: |^ +)(?:"[^"]*"|\d+)(?=,?$)/gm)];
          const chosen = scalars[at % scalars.length];
          const start = chosen?.index ?? 0;
          const broken = text.slice(0, start) + value + text.slice(start + (chosen?.[0].length ?? 0));
          for (const finding of findingsIn(broken)) expect(tokenAt(broken, finding)).toMatch(/^["{[\d-]|^null/);
        },
      ),
    );
    for (const text of samples) {
      const warnings = locateFindings(bytesOf(text), lintPolicy(parsePolicy(bytesOf(text)), 0));
      for (const warning of warnings) expect(tokenAt(text, warning)).toMatch(/^"/);
    }
  });
});

function withVault(): PolicyDocument {
  const document = policyDocument();
  decryptionScopes(document);
  return document;
}

function refused(bytes: Uint8Array): unknown {
  try {
    return parsePolicy(bytes);
  } catch (error) {
    return error;
  }
}
