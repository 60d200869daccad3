import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type DecisionTable,
  parseDecisionTable,
  runDecisionTable,
  untestedRules,
} from "../../policy/decision-table.ts";
import { FindingsError } from "../../policy/findings.ts";
import { type Policy, parsePolicy } from "../../policy/policy.ts";
import { demoPolicy } from "../../vm-images/story/demo-policy.ts";
import { decryptionScopes } from "../support/broker-fixture.ts";
import { documentBytes, pinnedModule, policyDocument, SIGNER_EXE, SIGNER_UID } from "../support/policy-document.ts";

const document = policyDocument();
decryptionScopes(document);
Object.assign(document, {
  approvers: { alice: { key: `ssh-ed25519 ${"A".repeat(68)}`, notFor: [] } },
});
Object.assign(document.scopes[1] ?? {}, {
  approvals: { required: 1, of: ["alice"], for: "operation", window: "PT15M" },
  valid: { from: "2027-01-01T00:00:00Z", until: "2027-02-01T00:00:00Z" },
  budget: { operations: 10 },
});
const policy = parsePolicy(documentBytes(document));

const good = {
  name: "a release",
  scope: "release-signing",
  caller: "release-signer",
  key: "release-ec",
  operation: "sign",
  mechanism: "CKM_ECDSA",
  expect: "allow",
};
const rsa = { scope: "rsa-signing", key: "release-rsa", mechanism: "CKM_RSA_PKCS", state: { approvedBy: ["alice"] } };
const vault = { scope: "vault", key: "vault", operation: "decrypt", mechanism: "CKM_RSA_PKCS_OAEP" };
const pss = (hash: string, mgf: string, saltLength: number) => ({
  mechanism: "CKM_RSA_PKCS_PSS",
  parameters: { pss: { hash, mgf, saltLength } },
});
const oaep = (hash: string, mgf: string, label: string) => ({ parameters: { oaep: { hash, mgf, label } } });

function tableOf(...changes: readonly object[]): DecisionTable {
  const cases = changes.map((change, index) => ({ ...good, name: `case ${index}`, ...change }));
  return parseDecisionTable(documentBytes({ version: 1, policy: "p.json", at: "2027-01-15T00:00:00Z", cases }));
}

function gotten(policyUsed: Policy, table: DecisionTable): readonly string[] {
  return runDecisionTable(policyUsed, table).map(({ got }) => (got.allow ? "allow" : got.step));
}

function refusal(change: (table: Record<string, unknown>) => void): string {
  const table = { version: 1, policy: "p.json", at: "2027-01-15T00:00:00Z", cases: [{ ...good }] };
  change(table);
  try {
    parseDecisionTable(documentBytes(table));
  } catch (error) {
    if (error instanceof FindingsError) return error.message;
    throw error;
  }
  return "accepted";
}

describe("a table of expected decisions", () => {
  it.each<[string, object, string]>([
    ["data that fit", {}, "allow"],
    ["data of another length", { input: { length: 33 } }, "parameters"],
    ["data in hexadecimal", { input: { data: "00".repeat(32) } }, "allow"],
    ["data that are not known yet", { input: "pending" }, "allow"],
    ["parameters of no known form", { parameters: "opaque" }, "parameters"],
    ["a caller spelled out", { caller: { uid: SIGNER_UID, exe: SIGNER_EXE, unit: "x.service" } }, "allow"],
    ["a caller of another uid", { caller: { uid: 0, exe: SIGNER_EXE, unit: null } }, "caller"],
    ["another of the policy's callers", { caller: "backup" }, "caller"],
    ["no caller", { caller: null }, "caller"],
    ["no key", { key: null }, "key"],
    ["a frozen scope", { state: { frozen: true } }, "frozen"],
    ["an empty bucket", { state: { tokens: 0.5 } }, "rate"],
    ["an approved DigestInfo", rsa, "allow"],
    ["a bare digest", { ...rsa, input: { length: 32 } }, "parameters"],
    ["PSS as the rule has it", { ...rsa, ...pss("sha256", "sha256", 32) }, "allow"],
    ["PSS with another salt", { ...rsa, ...pss("sha256", "sha256", 20) }, "parameters"],
    ["PSS with another MGF", { ...rsa, ...pss("sha256", "sha512", 32) }, "parameters"],
    ["nobody's approval", { ...rsa, state: {} }, "approvals"],
    ["the approval of somebody else", { ...rsa, state: { approvedBy: ["bob"] } }, "approvals"],
    ["an instant that is too late", { ...rsa, state: { at: "2027-02-01T00:00:00Z" } }, "valid"],
    ["a spent budget", { ...rsa, state: { approvedBy: ["alice"], operationsLeft: 0 } }, "budget"],
    ["a ciphertext that fits", vault, "allow"],
    ["OAEP as the rule has it", { ...vault, ...oaep("sha256", "sha256", "") }, "allow"],
    ["OAEP with a label", { ...vault, ...oaep("sha256", "sha256", "00") }, "parameters"],
    ["OAEP with SHA-1", { ...vault, ...oaep("sha1", "sha1", "") }, "parameters"],
    ["a ciphertext of the modulus", { ...vault, input: { block: "ff", modulus: "ff" } }, "parameters"],
    ["a ciphertext below it", { ...vault, input: { block: "fe", modulus: "ff" } }, "allow"],
    ["an empty failure bucket", { ...vault, state: { failures: 0 } }, "budget"],
  ])("I6: a case with %s is decided as the agent would", (_, change, step) => {
    expect(gotten(policy, tableOf(change))).toEqual([step]);
  });

  it("I6: a case passes with its decision at its step only, and a rule that no case is allowed by is said", () => {
    const table = tableOf(
      {},
      { expect: { deny: "rate" } },
      { key: null, expect: { deny: "caller" } },
      { caller: null },
    );
    const results = runDecisionTable(policy, table);
    expect(results.map(({ passed }) => passed)).toEqual([true, false, false, false]);
    const untested = untestedRules(policy, results);
    expect(untested).toContain("release-signing/CKM_ECDSA_SHA256");
    expect(untested).not.toContain("release-signing/CKM_ECDSA");
    expect(untested).toHaveLength(8);
  });

  it.each<[string, (table: Record<string, unknown>) => void, RegExp]>([
    ["no case", (table) => Object.assign(table, { cases: [] }), /cases: /],
    [
      "a step that there is none of",
      (t) => Object.assign(t, { cases: [{ ...good, expect: { deny: "no" } }] }),
      /cases\.0\.expect/,
    ],
    [
      "a field too many",
      (t) => Object.assign(t, { cases: [{ ...good, skip: true }] }),
      /cases\.0: unrecognized key: "skip"/,
    ],
    [
      "two cases of one name",
      (t) => Object.assign(t, { cases: [good, good] }),
      /another case has the name a release too/,
    ],
    ["no instant", (table) => delete table["at"], /at: /],
    ["another version", (table) => Object.assign(table, { version: 2 }), /version: /],
    ["half a byte", (t) => Object.assign(t, { cases: [{ ...good, input: { data: "0" } }] }), /cases\.0\.input/],
  ])("I6: a table with %s is refused", (_, change, message) => {
    expect(refusal(change)).toMatch(message);
  });

  it("I6: a caller that the policy does not name is a finding, not a denial that somebody expected", () => {
    const table = tableOf({ caller: "constructor", expect: { deny: "caller" } });
    expect(() => runDecisionTable(policy, table)).toThrow(/cases\.0: the policy has no caller constructor/);
  });

  it("I6: whatever was decided, a table that expects it passes", () => {
    const one = fc.record({
      scope: fc.constantFrom("release-signing", "rsa-signing", "vault", "none"),
      caller: fc.constantFrom("release-signer", "backup", null),
      key: fc.constantFrom("release-ec", "release-rsa", "vault", null),
      operation: fc.constantFrom("sign", "decrypt", "unwrap"),
      mechanism: fc.constantFrom("CKM_ECDSA", "CKM_RSA_PKCS", "CKM_RSA_PKCS_OAEP", "none"),
      input: fc.constantFrom("fitting", "pending", { length: 32 }),
    });
    fc.assert(
      fc.property(fc.array(one, { minLength: 1, maxLength: 6 }), (changes) => {
        const steps = gotten(policy, tableOf(...changes));
        const expected = changes.map((change, index) => {
          const step = steps[index] ?? "";
          return { ...change, expect: step === "allow" ? step : { deny: step } };
        });
        expect(runDecisionTable(policy, tableOf(...expected)).every(({ passed }) => passed)).toBe(true);
      }),
    );
  });
});

describe("the demo's table", () => {
  it("I6: every decision about the demo's policy is the expected one, and each of its rules allows something", () => {
    const file = join(import.meta.dirname, "../../vm-images/story/demo-decisions.json");
    const table = parseDecisionTable(Uint8Array.from(readFileSync(file)));
    const demo = parsePolicy(
      demoPolicy({
        module: pinnedModule(),
        profileSha256: "ab".repeat(32),
        devices: ["1af4:1041"],
        token: {
          ...{ label: "signing", serial: "0123456789abcdef", files: [] },
          keys: { "release-ec": Uint8Array.of(1), "document-rsa": Uint8Array.of(2) },
        },
        executables: ["5e".repeat(32)],
      }),
    );
    const results = runDecisionTable(demo, table);
    expect(results.filter(({ passed }) => !passed)).toEqual([]);
    expect(untestedRules(demo, results)).toEqual([]);
    const steps = table.cases.map(({ expect: expected }) => (expected === "allow" ? "allow" : expected.deny));
    expect([...new Set(steps)].sort()).toEqual(
      ["allow", "caller", "frozen", "key", "mechanism", "operation", "parameters", "rate"].sort(),
    );
  });
});
