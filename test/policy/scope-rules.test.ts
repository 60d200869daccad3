import { describe, expect, it } from "vitest";
import { PolicyError } from "../../policy/errors.ts";
import { parsePolicy } from "../../policy/policy.ts";
import { acceptedRisks, failuresOf } from "../../policy/scope-rules.ts";
import { decryptionScopes } from "../support/broker-fixture.ts";
import { documentBytes, type PolicyDocument, policyDocument, twoTokenDocument } from "../support/policy-document.ts";

type Rule = Record<string, unknown>;

/** The sample policy with the scopes `vault` (OAEP), `legacy` (PKCS#1 v1.5) and `raw` of one key. */
function documentWith(change: (document: PolicyDocument) => void = () => {}): PolicyDocument {
  const document = policyDocument();
  decryptionScopes(document);
  change(document);
  return document;
}

function scopeNamed(document: PolicyDocument, name: string): Rule {
  return document.scopes.find((scope) => scope["name"] === name) ?? {};
}

const rules =
  (scope: string, ...mechanisms: Rule[]) =>
  (document: PolicyDocument) =>
    void Object.assign(scopeNamed(document, scope), { mechanisms });
const fields = (scope: string, more: Rule) => (document: PolicyDocument) =>
  void Object.assign(scopeNamed(document, scope), more);

function findings(document: PolicyDocument): string {
  try {
    parsePolicy(documentBytes(document));
    return "none";
  } catch (error) {
    if (error instanceof PolicyError) return error.message;
    throw error;
  }
}

const oaep = { type: "CKM_RSA_PKCS_OAEP", digest: "sha256" };
const pkcs1 = { type: "CKM_RSA_PKCS", accepts: ["padding-oracle"] };
const raw = { type: "CKM_RSA_X_509", accepts: ["raw-rsa"] };

describe("rules of a scope", () => {
  it("I7: decryption by each mechanism, with its weakness named, is a policy", () => {
    const policy = parsePolicy(documentBytes(documentWith()));
    expect(["vault", "release-rsa"].map((key) => acceptedRisks(policy, key))).toEqual([
      ["padding-oracle", "raw-rsa"],
      [],
    ]);
    expect(findings(documentWith(rules("vault", oaep, pkcs1, raw)))).toBe("none");
    expect(findings(documentWith(rules("vault", { ...oaep, digest: "sha1", label: "00ff" })))).toBe("none");
    expect(findings(documentWith(rules("rsa-signing", raw)))).toBe("none");
  });

  it.each<[string, (document: PolicyDocument) => void, RegExp]>([
    ["PKCS#1 v1.5 by nobody's word", rules("vault", { type: "CKM_RSA_PKCS" }), /needs accepts padding-oracle/],
    ["raw decryption by nobody's word", rules("vault", { type: "CKM_RSA_X_509" }), /needs accepts raw-rsa/],
    ["raw signing by nobody's word", rules("rsa-signing", { type: "CKM_RSA_X_509" }), /needs accepts raw-rsa/],
    ["another word", rules("vault", { ...pkcs1, accepts: ["raw-rsa"] }), /needs accepts padding-oracle/],
    ["a word for each", rules("vault", { ...pkcs1, accepts: ["padding-oracle", "raw-rsa"] }), /accepts/],
    ["no word in the list", rules("vault", { ...pkcs1, accepts: [] }), /mechanisms\.0\.accepts/],
    ["an unknown word", rules("vault", { ...pkcs1, accepts: ["everything"] }), /mechanisms\.0\.accepts/],
    ["a word for OAEP", rules("vault", { ...oaep, accepts: ["padding-oracle"] }), /which it has not/],
    [
      "a word for a PKCS#1 signature",
      rules("rsa-signing", { ...pkcs1, digest: "sha256" }),
      /accepts padding-oracle, which it has not/,
    ],
    ["OAEP without digest", rules("vault", { type: "CKM_RSA_PKCS_OAEP" }), /needs a digest/],
    ["a digest for PKCS#1 v1.5", rules("legacy", { ...pkcs1, digest: "sha256" }), /takes no digest here/],
    ["a digest for raw RSA", rules("rsa-signing", { ...raw, digest: "sha256" }), /takes no digest here/],
    ["SHA-1 for a signature", rules("rsa-signing", { type: "CKM_RSA_PKCS", digest: "sha1" }), /sha1 is for/],
    ["SHA-1 for PSS", rules("rsa-signing", { type: "CKM_RSA_PKCS_PSS", digest: "sha1" }), /sha1 is for/],
    ["a label for PKCS#1 v1.5", rules("legacy", { ...pkcs1, label: "00" }), /CKM_RSA_PKCS has no label/],
    ["half a byte of label", rules("vault", { ...oaep, label: "0" }), /hexadecimal/],
    ["an empty label", rules("vault", { ...oaep, label: "" }), /hexadecimal/],
    ["a label in capitals", rules("vault", { ...oaep, label: "FF" }), /hexadecimal/],
    ["a label of 257 bytes", rules("vault", { ...oaep, label: "00".repeat(257) }), /hexadecimal/],
    ["PSS on a key that decrypts", rules("vault", { type: "CKM_SHA256_RSA_PKCS_PSS" }), /vault does decrypt/],
    ["ECDSA beside decryption", rules("vault", oaep, { type: "CKM_ECDSA", digest: "sha256" }), /two key types/],
    ["no failures for PKCS#1 v1.5", fields("legacy", { failures: undefined }), /CKM_RSA_PKCS needs failures/],
    ["no failures for raw RSA", fields("raw", { failures: undefined }), /CKM_RSA_X_509 needs failures/],
    ["failures of a key that signs", fields("rsa-signing", { failures: { perHour: 1, burst: 1 } }), /decryption only/],
    ["no failure at all", fields("vault", { failures: { perHour: 0, burst: 1 } }), /failures/],
    ["failures without end", fields("vault", { failures: { perHour: 3601, burst: 1 } }), /failures/],
    ["a burst without end", fields("vault", { failures: { perHour: 60, burst: 257 } }), /failures/],
    ["more failures in one scope", fields("raw", { failures: { perHour: 60, burst: 17 } }), /raw: another scope/],
    [
      "the default in one scope, other failures in the next",
      (document) => {
        fields("vault", { failures: undefined })(document);
        for (const scope of ["legacy", "raw"]) fields(scope, { failures: { perHour: 5, burst: 5 } })(document);
      },
      /legacy: another scope of this key.*raw: another scope of this key/,
    ],
    [
      "a scope that unwraps, and does not say what",
      (document) => Object.assign(document.keys, { vault: { spki: `sha256:${"33".repeat(32)}`, does: "unwrap" } }),
      /scope vault: a key that does unwrap needs unwraps/,
    ],
  ])("I7: %s is a finding", (_what, change, expected) => {
    const document = documentWith(change);
    expect(findings(document)).toMatch(expected);
  });

  it("I7: OAEP that says nothing has the default failures, and a scope that says the same is no finding", () => {
    const change = fields("vault", { failures: undefined });
    const policy = parsePolicy(documentBytes(documentWith(change)));
    expect(policy.scopes.map(failuresOf)).toEqual(Array.from({ length: 5 }, () => ({ perHour: 60, burst: 16 })));
  });

  it("I7: one key on two tokens has one budget and does one thing, under whatever names", () => {
    const document = twoTokenDocument();
    const spki = `sha256:${"33".repeat(32)}`;
    document.keys["vault-copy"] = { spki, does: "decrypt", token: "payments" };
    const scope = { caller: "release-signer", mechanisms: [oaep], audit: "written" };
    document.scopes.push({ ...scope, name: "a", key: "vault" }, { ...scope, name: "b", key: "vault-copy" });
    expect(findings(document)).toBe("none");
    fields("b", { failures: { perHour: 60, burst: 15 } })(document);
    expect(findings(document)).toMatch(/scope b: another scope of this key has other failures/);
    document.keys["vault-copy"] = { spki, does: "sign", token: "payments" };
    expect(findings(document)).toMatch(/two uses of the spki/);
  });

  it("I6: one key on two tokens has one rate, under whatever names: a second one, or none, is a finding", () => {
    const rate = { perMinute: 60, burst: 5 };
    const withRates = (first: object | undefined, second: object | undefined) => {
      const document = twoTokenDocument();
      const spki = `sha256:${"33".repeat(32)}`;
      Object.assign(document.keys["vault"] ?? {}, { rate: first });
      document.keys["vault-copy"] = { spki, does: "decrypt", token: "payments", rate: second };
      return findings(JSON.parse(JSON.stringify(document)));
    };
    expect(withRates(rate, { ...rate })).toBe("none");
    for (const [first, second] of [
      [rate, { ...rate, perMinute: 61 }],
      [rate, { ...rate, burst: 6 }],
      [rate, undefined],
      [undefined, rate],
    ])
      expect(withRates(first, second)).toMatch(/two rates of the spki/);
  });

  it("I7: one key under two names of one token is a finding, also when both do the same", () => {
    const alias = { spki: `sha256:${"33".repeat(32)}`, does: "decrypt" };
    expect(findings(documentWith(({ keys }) => Object.assign(keys, { alias })))).toMatch(/two entries with the spki/);
    const capitals = { ...alias, spki: `sha256:${"AB".repeat(32)}` };
    expect(findings(documentWith(({ keys }) => Object.assign(keys, { alias: capitals })))).toMatch(/keys\.alias/);
  });
});
