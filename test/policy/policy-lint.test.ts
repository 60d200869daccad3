import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parsePolicy } from "../../policy/policy.ts";
import { lintPolicy } from "../../policy/policy-lint.ts";
import {
  documentBytes,
  type PolicyDocument,
  policyDocument,
  SIGNER_EXE,
  SIGNER_UID,
  sshKeyLine,
} from "../support/policy-document.ts";

const NOW = Date.parse("2027-01-15T12:00:00Z");
const ALICE = sshKeyLine("A");
const BOB = sshKeyLine("F");
const approvals = { required: 1, of: ["alice", "bob"], for: "operation", window: "PT15M" };

/** A policy with nothing to warn of: each key, caller and approver is used, each scope has a purpose of its own. */
function quiet(): PolicyDocument {
  const document = policyDocument();
  delete document.keys["vault"];
  delete document.callers["backup"];
  const [release = {}, rsa = {}] = document.scopes;
  Object.assign(release, { approvals });
  Object.assign(rsa, { mechanisms: [{ type: "CKM_SHA256_RSA_PKCS" }] });
  return Object.assign(document, {
    approvers: { alice: { key: ALICE, notFor: [] }, bob: { key: BOB, notFor: [] } },
  });
}

function warnings(change: (document: PolicyDocument, scope: Record<string, unknown>) => void): readonly string[] {
  const document = quiet();
  change(document, document.scopes[0] ?? {});
  return lintPolicy(parsePolicy(documentBytes(document)), NOW).map(
    ({ code, path, message }) => `${code} ${path.join(".")} ${message}`,
  );
}

/** A second scope of the signer, like the first but for `differs`. */
function beside(document: PolicyDocument, differs: object): void {
  const { approvals: _, ...first } = document.scopes[0] ?? {};
  document.scopes.push({ ...first, name: "second", ...differs });
}

/** A scope that lets two keys in, and one that uses them. */
function arriving(document: PolicyDocument, mechanisms: readonly object[]): void {
  document.keys["wrapper"] = { spki: `sha256:${"44".repeat(32)}`, does: "unwrap" };
  const arrival = { does: "sign", where: "session", blob: `sha256:${"55".repeat(32)}` };
  const scope = { caller: "release-signer", audit: "durable" };
  document.scopes.push(
    {
      ...{ ...scope, name: "restore", key: "wrapper", mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }] },
      unwraps: [{ ...arrival, key: "old", label: "old", publicKey: btoa("spki"), mechanisms: ["CKM_SHA256_RSA_PKCS"] }],
    },
    { ...scope, name: "restored", from: "restore", key: "old", mechanisms },
  );
}

describe("warnings about a policy", () => {
  it("I6: a policy in which everything has a use and a date has none", () => {
    expect(warnings(() => {})).toEqual([]);
  });

  it.each<[string, (document: PolicyDocument, scope: Record<string, unknown>) => void, readonly string[]]>([
    [
      "a blank owner",
      (d) => Object.assign(d, { owner: "  " }),
      ["no-owner owner owner: nobody answers for this document"],
    ],
    [
      "a review that is due",
      (d) => Object.assign(d, { reviewBy: "2027-01-14" }),
      ["review-passed reviewBy reviewBy: 2027-01-14 has passed"],
    ],
    ["a review today", (d) => Object.assign(d, { reviewBy: "2027-01-15" }), []],
    ["a review in a year", (d) => Object.assign(d, { reviewBy: "2028-01-15" }), []],
    [
      "a review in years",
      (d) => Object.assign(d, { reviewBy: "2028-01-17" }),
      ["review-far reviewBy reviewBy: 2028-01-17 is more than a year away"],
    ],
    ["four log-ins to each token", (d) => Object.assign(d, { shims: 2, spares: 2 }), []],
    [
      "five log-ins to each token",
      (d) => Object.assign(d, { shims: 4, spares: 1 }),
      [
        "many-logins modules.module.shims modules.module: 5 shims log in to each of its tokens, one after the other; see that the HSM allows as many",
      ],
    ],
    [
      "a key that is not shown",
      (d) => Object.assign(d.keys, { spare: { spki: `sha256:${"77".repeat(32)}`, does: "sign" } }),
      ["unused-key keys.spare keys.spare: no scope shows it"],
    ],
    [
      "a caller without scope",
      (d) => Object.assign(d.callers, { other: { uid: 7, exe: [SIGNER_EXE], unit: null } }),
      ["unused-caller callers.other callers.other: no scope is for it"],
    ],
    [
      "an approver whom nobody asks",
      (_, scope) => Object.assign(scope, { approvals: { ...approvals, of: ["alice"] } }),
      ["unused-approver approvers.bob approvers.bob: no scope asks for it"],
    ],
    [
      "an approver who may not approve",
      (d) =>
        Object.assign(d, {
          approvers: { alice: { key: ALICE, notFor: [] }, bob: { key: BOB, notFor: ["release-signer"] } },
        }),
      [
        "excluded-approver scopes.0.approvals.of.1 scope release-signing: bob is listed, and may not approve for release-signer",
      ],
    ],
    [
      "a scope that is over",
      (_, scope) => Object.assign(scope, { valid: { from: "2026-01-01T00:00:00Z", until: "2027-01-15T12:00:00Z" } }),
      ["scope-ended scopes.0.valid.until scope release-signing: closed since 2027-01-15T12:00:00Z"],
    ],
    [
      "a scope that is about to be over",
      (_, scope) => Object.assign(scope, { valid: { from: "2026-01-01T00:00:00Z", until: "2027-01-15T12:00:01Z" } }),
      [],
    ],
    [
      "a rule that no arriving key can do",
      (d) => arriving(d, [{ type: "CKM_SHA256_RSA_PKCS" }, { type: "CKM_RSA_PKCS", digest: "sha256" }]),
      [
        "unreachable-rule scopes.3.mechanisms.1.type scope restored: no key that arrives from restore does CKM_RSA_PKCS",
      ],
    ],
    [
      "two callers who are one",
      (d) => {
        Object.assign(d.callers, {
          twin: { uid: SIGNER_UID, exe: [`sha256:${"00".repeat(32)}`, SIGNER_EXE], unit: "a.service" },
        });
        d.scopes.push({ ...d.scopes[1], name: "second", caller: "twin" });
      },
      [
        "shared-identity callers.twin.exe.1 callers.twin: a process of uid 2001 with this executable is release-signer too",
      ],
    ],
    [
      "two callers whom their units tell apart",
      (d) => {
        Object.assign(d.callers["release-signer"] as object, { unit: "b.service" });
        Object.assign(d.callers, { twin: { uid: SIGNER_UID, exe: [SIGNER_EXE], unit: "a.service" } });
        d.scopes.push({ ...d.scopes[1], name: "second", caller: "twin" });
      },
      [],
    ],
    [
      "a way around the approvals",
      (d) => beside(d, {}),
      [
        "bypassed-scope scopes.0.name scope release-signing: second allows release-signer the same without its approvals",
      ],
    ],
    [
      "a way around the rate",
      (d) => beside(d, { approvals, rate: undefined }),
      ["bypassed-scope scopes.0.name scope release-signing: second allows release-signer the same without its rate"],
    ],
    [
      "a faster way",
      (d) => beside(d, { approvals, rate: { perMinute: 601, burst: 60 } }),
      ["bypassed-scope scopes.0.name scope release-signing: second allows release-signer the same without its rate"],
    ],
    [
      "another way that is slower in one respect",
      (d) => beside(d, { approvals, rate: { perMinute: 601, burst: 59 } }),
      [],
    ],
    [
      "the same scope again",
      (d) => beside(d, { approvals }),
      ["shadowed-scope scopes.2.name scope second: release-signing allows release-signer the same already"],
    ],
    [
      "a part of a scope",
      (d) => beside(d, { approvals, mechanisms: [{ type: "CKM_ECDSA_SHA256" }] }),
      ["shadowed-scope scopes.2.name scope second: release-signing allows release-signer the same already"],
    ],
    [
      "a part of a scope that lasts longer",
      (d) => {
        Object.assign(d.scopes[0] ?? {}, { lifetime: "PT1H" });
        beside(d, { approvals, lifetime: undefined, mechanisms: [{ type: "CKM_ECDSA_SHA256" }] });
      },
      [],
    ],
    [
      "the same without a freeze bit",
      (d) => {
        Object.assign(d.scopes[0] ?? {}, { freezeBit: 3 });
        beside(d, { approvals, freezeBit: undefined });
      },
      [
        "bypassed-scope scopes.0.name scope release-signing: second allows release-signer the same without its freezeBit; what freezes release-signing leaves second open",
      ],
    ],
    [
      "the same with a freeze bit of its own",
      (d) => {
        Object.assign(d.scopes[0] ?? {}, { freezeBit: 3 });
        beside(d, { approvals, freezeBit: 4 });
      },
      [
        "bypassed-scope scopes.2.name scope second: release-signing allows release-signer the same without its freezeBit; what freezes second leaves release-signing open",
      ],
    ],
    [
      "the same with records that need not be on the disk",
      (d) => {
        Object.assign(d.scopes[0] ?? {}, { audit: "durable" });
        beside(d, { approvals, audit: "written" });
      },
      ["bypassed-scope scopes.0.name scope release-signing: second allows release-signer the same without its audit"],
    ],
    ["another digest", (d) => beside(d, { mechanisms: [{ type: "CKM_ECDSA", digest: "sha384" }] }), []],
    [
      "the same for another caller",
      (d) => {
        Object.assign(d.callers, { other: { uid: 7, exe: [SIGNER_EXE], unit: null } });
        beside(d, { caller: "other" });
      },
      [],
    ],
    [
      "one key in two schemes",
      (d) =>
        Object.assign(d.scopes[1] ?? {}, {
          mechanisms: [{ type: "CKM_SHA256_RSA_PKCS" }, { type: "CKM_SHA256_RSA_PKCS_PSS" }],
        }),
      [
        "two-schemes scopes.1.mechanisms.1.type scope rsa-signing: key release-rsa is used by RSASSA-PSS, and by PKCS #1 v1.5",
      ],
    ],
    [
      "one key in two schemes of two scopes",
      (d) => d.scopes.push({ ...d.scopes[1], name: "second", mechanisms: [{ type: "CKM_SHA256_RSA_PKCS_PSS" }] }),
      [
        "two-schemes scopes.2.mechanisms.0.type scope second: key release-rsa is used by RSASSA-PSS, and in rsa-signing by PKCS #1 v1.5",
      ],
    ],
  ])("I6: %s", (_, change, expected) => {
    expect(warnings(change)).toEqual(expected);
  });
});

describe("callers who are one", () => {
  type Caller = { readonly uid: number; readonly exe: readonly string[]; readonly unit: string | null };
  const digest = (octet: number) => `sha256:${octet.toString(16).padStart(2, "0").repeat(32)}`;
  const named = (callers: readonly Caller[]) =>
    Object.fromEntries(callers.map((caller, index) => [`c${index}`, caller]));
  const twinsIn = (callers: readonly Caller[]) =>
    warnings((document) => Object.assign(document.callers, named(callers))).filter((line) => line.startsWith("shared"));

  it("I6: of as many as a document may have, each is shown with the first of them alone", () => {
    const twins = twinsIn(Array.from({ length: 255 }, () => ({ uid: 7, exe: [SIGNER_EXE], unit: null })));
    expect(twins.length).toBe(254);
    expect(new Set(twins.map((line) => line.replace(/^.* is /, "")))).toEqual(new Set(["c0 too"]));
  });

  it("I6: whoever they are, each is shown with the first before it that shares its uid, an executable and perhaps its unit", () => {
    const caller: fc.Arbitrary<Caller> = fc.record({
      uid: fc.integer({ min: 7, max: 8 }),
      exe: fc.array(fc.integer({ min: 0, max: 4 }).map(digest), { minLength: 1, maxLength: 3 }),
      unit: fc.constantFrom(null, "a.service", "b.service"),
    });
    const areOne = (a: Caller, b: Caller) =>
      a.uid === b.uid &&
      (a.unit === null || b.unit === null || a.unit === b.unit) &&
      a.exe.some((e) => b.exe.includes(e));
    fc.assert(
      fc.property(fc.array(caller, { maxLength: 8 }), (callers) => {
        const expected = callers.flatMap((one, index) => {
          const first = callers.findIndex((other) => areOne(one, other));
          if (first === index) return [];
          const at = one.exe.findIndex((exe) => callers[first]?.exe.includes(exe));
          const place = `callers.c${index}.exe.${at} callers.c${index}`;
          return [`shared-identity ${place}: a process of uid ${one.uid} with this executable is c${first} too`];
        });
        expect(twinsIn(callers)).toEqual(expected);
      }),
    );
  });
});
