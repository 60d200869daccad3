import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { countingApprovers } from "../../policy/approvers.ts";
import { type DecisionRequest, decide } from "../../policy/decide.ts";
import { milliseconds, parseDuration } from "../../policy/duration.ts";
import { PolicyError } from "../../policy/errors.ts";
import { findScope } from "../../policy/find-scope.ts";
import { sha256Hex } from "../../policy/hash.ts";
import { type Policy, parsePolicy } from "../../policy/policy.ts";
import { scopeKeyRate } from "../../policy/scope-keys.ts";
import { AMPLE } from "../support/decision.ts";
import {
  documentBytes,
  type PolicyDocument,
  policyDocument,
  SIGNER_EXE,
  SIGNER_UID,
} from "../support/policy-document.ts";

type Fields = Record<string, unknown>;

/** Two Ed25519 public keys in the form of a `.pub` file; nothing is signed with them here. */
const keyLine = (last: string) =>
  `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJHW4bXyS9Qm9bIcJVbTfWZxYwq4LkWz8oRl9nWv3hT${last} x@y`;
const approvers = {
  alice: { key: keyLine("A"), notFor: ["release-signer"] },
  bob: { key: keyLine("F"), notFor: [] },
  carol: { key: keyLine("G"), notFor: [] },
};

function documentWith(fields: Fields, change: (document: PolicyDocument) => void = () => undefined): PolicyDocument {
  const document = policyDocument();
  Object.assign(document.scopes[0] ?? {}, fields);
  Object.assign(document, { approvers });
  change(document);
  return document;
}

function findings(document: PolicyDocument): string {
  try {
    parsePolicy(documentBytes(document));
    return "none";
  } catch (error) {
    if (error instanceof PolicyError) return error.message;
    throw error;
  }
}

const policyWith = (fields: Fields, change?: (document: PolicyDocument) => void): Policy =>
  parsePolicy(documentBytes(documentWith(fields, change)));

const request: DecisionRequest = {
  ...AMPLE,
  ...{ scope: "release-signing", caller: { uid: SIGNER_UID, exe: SIGNER_EXE, unit: null }, key: "release-ec" },
  ...{ operation: "sign", mechanism: "CKM_ECDSA", parameters: { kind: "none" } },
  input: { kind: "data", bytes: new Uint8Array(32) },
};
const stepOf = (policy: Policy, change: Partial<DecisionRequest> = {}) => {
  const decision = decide(policy, { ...request, ...change });
  return decision.allow ? "allowed" : decision.step;
};

describe("limits of a scope", () => {
  it.each<[string, Fields, RegExp]>([
    ["neither key nor keys", { key: undefined }, /either key or keys/],
    ["key and keys", { keys: ["release-ec"] }, /either key or keys/],
    ["a key twice", { key: undefined, keys: ["release-ec", "release-ec"] }, /release-ec is listed twice/],
    ["keys of two uses", { key: undefined, keys: ["release-ec", "vault"] }, /its keys do sign and decrypt/],
    [
      "a validity that ends before it begins",
      { valid: { from: "2027-01-01T00:00:00Z", until: "2026-01-01T00:00:00Z" } },
      /from before until/,
    ],
    ["a validity without its end", { valid: { from: "2027-01-01T00:00:00Z" } }, /valid.until/],
    ["a local time", { valid: { from: "2027-01-01T00:00:00", until: "2028-01-01T00:00:00Z" } }, /valid.from/],
    ["a lifetime of nothing", { lifetime: "PT0S" }, /lifetime/],
    ["a lifetime in days", { lifetime: "P1D" }, /lifetime/],
    ["a freeze bit of everything", { freezeBit: 0 }, /freezeBit/],
    ["a budget of nothing", { budget: { operations: 0 } }, /budget.operations/],
    [
      "an approver nobody knows",
      { approvals: { required: 1, of: ["dave"], for: "operation", window: "PT15M" } },
      /unknown approver dave/,
    ],
    [
      "an approver twice",
      { approvals: { required: 1, of: ["bob", "bob"], for: "operation", window: "PT15M" } },
      /bob is listed twice/,
    ],
    [
      "approvals that its caller's own word would have to give",
      { approvals: { required: 2, of: ["alice", "bob"], for: "operation", window: "PT15M" } },
      /2 required, and 1 may approve for release-signer/,
    ],
    ["unwraps of a key that signs", { unwraps: [] }, /unwraps/],
    ["keys of a scope that lets none in", { from: "rsa-signing" }, /from rsa-signing: no scope that unwraps/],
  ])("I6: %s is a finding", (_what, fields, expected) => {
    expect(findings(documentWith(fields))).toMatch(expected);
  });

  it("I6: two approvers with one key, a notFor of nobody, and two scopes with one freeze bit are findings", () => {
    const document = documentWith({ freezeBit: 3 }, ({ scopes }) => Object.assign(scopes[1] ?? {}, { freezeBit: 3 }));
    Object.assign(document, {
      approvers: { ...approvers, mallory: { key: `${keyLine("F")}.other`, notFor: ["nobody"] } },
    });
    expect(findings(document)).toMatch(/two with the freezeBit 3/);
    expect(findings(document)).toMatch(/approvers: two entries with the key/);
    expect(findings(document)).toMatch(/approvers.mallory: unknown caller nobody/);
  });

  it.each([
    ["an RSA key", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7"],
    ["a point off the curve", keyLine("B")],
    ["a point of small order", `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAE${"A".repeat(41)}`],
    ["another type in front than inside", keyLine("F").replace("ssh-ed25519", "sk-ssh-ed25519@openssh.com")],
    ["an option that no plain key has", `verify-required ${keyLine("F")}`],
    ["two lines", `${keyLine("F")}\n${keyLine("G")}`],
  ])("I6: an approver with %s is a finding", (_, key) => {
    const change = (document: PolicyDocument) => Object.assign(document, { approvers: { bob: { key, notFor: [] } } });
    expect(findings(documentWith({}, change))).toMatch(/approvers.bob.key/);
  });

  it("I6: a scope without limits has none that it would not say: each step looks at its own field only", () => {
    const policy = policyWith({});
    expect(stepOf(policy, { keyTokens: 0, operationsLeft: 0, failures: 0, approvedBy: [], now: Number.NaN })).toBe(
      "allowed",
    );
  });

  it("I6: a scope of two keys allows each by the mechanisms of its own kind, and no third", () => {
    const mechanisms = [{ type: "CKM_ECDSA", digest: "sha256" }, { type: "CKM_SHA256_RSA_PKCS" }];
    const policy = policyWith({ key: undefined, keys: ["release-ec", "release-rsa"], mechanisms });
    expect(stepOf(policy)).toBe("allowed");
    expect(stepOf(policy, { key: "vault" })).toBe("key");
    expect(policy.scopes[0]?.keys).toEqual(["release-ec", "release-rsa"]);
  });

  it("I6: outside its validity a scope allows nothing, at its first moment it does, at its last no more", () => {
    const policy = policyWith({ valid: { from: "2026-11-26T00:00:00Z", until: "2026-11-27T00:00:00Z" } });
    const at = (text: string) => stepOf(policy, { now: Date.parse(text) });
    expect(at("2026-11-25T23:59:59Z")).toBe("valid");
    expect(at("2026-11-26T00:00:00Z")).toBe("allowed");
    expect(at("2026-11-26T23:59:59Z")).toBe("allowed");
    expect(at("2026-11-27T00:00:00Z")).toBe("valid");
    expect(stepOf(policy, { now: Number.NaN })).toBe("valid");
  });

  it("I6: frozen comes before what is asked, and after who asks", () => {
    const policy = policyWith({});
    expect(stepOf(policy, { frozen: true, key: "vault" })).toBe("frozen");
    expect(stepOf(policy, { frozen: true, caller: null })).toBe("caller");
  });

  it("I6: a caller with a unit is that uid, that executable and that unit", () => {
    const unit = (name: string | null) => (document: PolicyDocument) =>
      Object.assign(document.callers["release-signer"] as object, { unit: name });
    const caller = { uid: SIGNER_UID, exe: SIGNER_EXE };
    const policy = policyWith({}, unit("signer.service"));
    expect(stepOf(policy, { caller: { ...caller, unit: "signer.service" } })).toBe("allowed");
    for (const other of [null, "", "other.service", "signer.service.evil"])
      expect(stepOf(policy, { caller: { ...caller, unit: other } })).toBe("caller");
    expect(findings(documentWith({}, (document) => delete (document.callers["backup"] as Fields)["unit"]))).toMatch(
      /unit/,
    );
  });

  it("I6: the key's own rate, the scope's rate and the scope's budget each refuse by themselves", () => {
    const policy = policyWith({ budget: { operations: 5 } }, ({ keys }) =>
      Object.assign(keys["release-ec"] as object, { rate: { perMinute: 10, burst: 5 } }),
    );
    expect(stepOf(policy)).toBe("allowed");
    expect(stepOf(policy, { tokens: 0.9 })).toBe("rate");
    expect(stepOf(policy, { keyTokens: 0.9 })).toBe("rate");
    expect(stepOf(policy, { operationsLeft: 0 })).toBe("budget");
    expect(stepOf(policy, { operationsLeft: Number.NaN })).toBe("budget");
  });
});

describe("approvals", () => {
  const rule = { required: 2, of: ["alice", "bob", "carol"], for: "operation", window: "PT15M" };

  it("I6: as many of the listed as required, each once, and none who may not approve for this caller", () => {
    const policy = policyWith({ approvals: rule });
    expect(policy.scopes.map((scope) => countingApprovers(policy, scope))).toEqual([["bob", "carol"], []]);
    expect(stepOf(policy, { approvedBy: ["bob", "carol"] })).toBe("allowed");
    for (const approvedBy of [[], ["bob"], ["bob", "bob"], ["alice", "bob"], ["bob", "dave"], ["Bob", "carol"]])
      expect(stepOf(policy, { approvedBy })).toBe("approvals");
  });

  it("I6: what has no data yet cannot be approved, and is not asked about, for a window neither: the data decides", () => {
    const pending = { input: { kind: "pending" }, approvedBy: [] } as const;
    expect(stepOf(policyWith({ approvals: rule }), pending)).toBe("allowed");
    const window = policyWith({ approvals: { ...rule, for: "window" } });
    expect(stepOf(window, pending)).toBe("allowed");
    expect(stepOf(window, { approvedBy: [] })).toBe("approvals");
  });

  it("I6: approvals come after everything that could be said without them, and before rate and budget", () => {
    const policy = policyWith({ approvals: rule, budget: { operations: 1 } });
    const nothing = { approvedBy: [], tokens: 0, operationsLeft: 0 };
    expect(stepOf(policy, { ...nothing, input: { kind: "data", bytes: new Uint8Array(31) } })).toBe("parameters");
    expect(stepOf(policy, nothing)).toBe("approvals");
    expect(stepOf(policy, { ...nothing, approvedBy: ["bob", "carol"] })).toBe("rate");
  });
});

describe("duration", () => {
  it("I6: a duration is read as hours, minutes and seconds", () => {
    expect([milliseconds("PT8H"), milliseconds("PT1H30M"), milliseconds("PT90S")]).toEqual([
      28_800_000, 5_400_000, 90_000,
    ]);
    for (const text of ["", "PT", "P1D", "PT0H", "PT-1S", "PT1.5S", "PT1S1M", "pt1s", "PT721H", "PT99999999S"])
      expect(parseDuration(text)).toBeNull();
  });

  it("I10: whatever is read says the same when it is written again", () => {
    fc.assert(
      fc.property(fc.nat(700), fc.nat(59), fc.nat(59), (hours, minutes, seconds) => {
        const total = (hours * 3600 + minutes * 60 + seconds) * 1000;
        expect(parseDuration(`PT${hours}H${minutes}M${seconds}S`)).toBe(total === 0 ? null : total);
      }),
    );
    fc.assert(fc.property(fc.string({ maxLength: 20 }), (text) => void parseDuration(text)));
  });
});

describe("keys that arrive by unwrap", () => {
  const publicKey = Buffer.from("no key, but some bytes").toString("base64");
  const arrival = {
    ...{ key: "restored", publicKey, does: "sign", where: "session", label: "restored" },
    ...{ mechanisms: ["CKM_ECDSA"], blob: `sha256:${"aa".repeat(32)}` },
  };
  const restore = (unwraps: Fields[], more: Fields = {}) => ({
    ...{ name: "restore", caller: "backup", key: "kek", audit: "durable", unwraps },
    mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }],
    ...more,
  });
  const using = {
    name: "restored-signing",
    caller: "release-signer",
    from: "restore",
    key: "restored",
    audit: "written",
  };
  const document = (...scopes: Fields[]) =>
    documentWith({}, (draft) => {
      draft.keys["kek"] = { spki: `sha256:${"44".repeat(32)}`, does: "unwrap" };
      draft.scopes.push(...scopes);
    });
  const mechanisms = [{ type: "CKM_ECDSA", digest: "sha256" }];

  it("I7: a scope lets in what its rules name, and another one uses it by the name of that scope only", () => {
    const policy = parsePolicy(documentBytes(document(restore([arrival]), { ...using, mechanisms })));
    const asked = { scope: "restored-signing", key: "restored" };
    expect(stepOf(policy, asked)).toBe("allowed");
    expect(stepOf(policy, { scope: "release-signing", key: "restored" })).toBe("key");
    expect(stepOf(policy, { ...asked, key: "release-ec" })).toBe("key");
    expect(stepOf(policy, { ...asked, operation: "unwrap" })).toBe("operation");
  });

  it("I6: a key that arrives has the rate of the same key where the policy names it, whatever it is called", () => {
    const rate = { perMinute: 6, burst: 1 };
    const spki = `sha256:${sha256Hex(Uint8Array.from(Buffer.from(publicKey, "base64")))}`;
    const drafted = document(restore([arrival]), { ...using, mechanisms });
    drafted.keys["the-same"] = { spki, does: "sign", rate };
    const policy = parsePolicy(documentBytes(drafted));
    const scope = findScope(policy, "restored-signing");
    expect(scope === null ? null : scopeKeyRate(policy, scope, "restored")).toEqual(rate);
    const asked = { scope: "restored-signing", key: "restored" };
    expect(stepOf(policy, { ...asked, keyTokens: 0.5 })).toBe("rate");
    expect(stepOf(policy, { ...asked, keyTokens: 1 })).toBe("allowed");
  });

  it.each<[string, () => PolicyDocument, RegExp]>([
    [
      "a rule for any blob, and nobody's approval",
      () => document(restore([{ ...arrival, blob: null }])),
      /any blob needs approvals/,
    ],
    ["two rules for one key", () => document(restore([arrival, arrival])), /two unwraps of restored/],
    [
      "a mechanism that the key is not for",
      () => document(restore([{ ...arrival, does: "decrypt" }])),
      /CKM_ECDSA does not decrypt/,
    ],
    [
      "a key that no rule names",
      () => document(restore([arrival]), { ...using, key: "other", mechanisms }),
      /restore lets in no key other/,
    ],
    [
      "a key that arrives for two uses",
      () =>
        document(
          restore([
            arrival,
            {
              ...arrival,
              key: "again",
              label: "again",
              does: "decrypt",
              mechanisms: ["CKM_RSA_PKCS_OAEP"],
              blob: `sha256:${"bb".repeat(32)}`,
            },
          ]),
        ),
      /the same key does sign elsewhere/,
    ],
    [
      "a mechanism that the using scope may not",
      () => document(restore([arrival]), { ...using, mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }] }),
      /restored does sign/,
    ],
  ])("I7: %s is a finding", (_what, make, expected) => {
    expect(findings(make())).toMatch(expected);
  });

  it("I7: only the listed blob is let in, as the key that it is listed for", () => {
    const bytes = Uint8Array.of(1, ...new Uint8Array(255));
    const modulus = Uint8Array.of(0xc0, ...new Uint8Array(255));
    const blob = `sha256:${sha256Hex(bytes)}`;
    const policy = parsePolicy(documentBytes(document(restore([arrival, { ...arrival, key: "b", label: "b", blob }]))));
    const asked: Partial<DecisionRequest> = {
      ...{ scope: "restore", caller: { uid: 2003, exe: `sha256:${"6f".repeat(32)}`, unit: null }, key: "kek" },
      ...{ operation: "unwrap", mechanism: "CKM_RSA_PKCS_OAEP" },
      parameters: { kind: "oaep", hash: 0x250n, mgf: 2n, source: 1n, label: new Uint8Array() },
    };
    expect(stepOf(policy, { ...asked, input: { kind: "wrapped", bytes, modulus, rule: "restored" } })).toBe(
      "parameters",
    );
    expect(stepOf(policy, { ...asked, input: { kind: "wrapped", bytes, modulus, rule: "other" } })).toBe("parameters");
    expect(stepOf(policy, { ...asked, input: { kind: "wrapped", bytes, modulus, rule: "" } })).toBe("parameters");
    expect(stepOf(policy, { ...asked, input: { kind: "wrapped", bytes, modulus, rule: "b" } })).toBe("allowed");
    expect(stepOf(policy, { ...asked, input: { kind: "data", bytes } })).toBe("parameters");
    expect(stepOf(policy, { ...asked, input: { kind: "pending" } })).toBe("allowed");
  });
});
