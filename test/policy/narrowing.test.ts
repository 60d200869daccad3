import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { comparePolicies, describeChange, requireNarrowing } from "../../policy/narrowing.ts";
import { type Policy, parsePolicy } from "../../policy/policy.ts";
import { fullBucket, refill, spend } from "../../policy/rate.ts";
import { allowedRequests } from "../support/decision-samples.ts";
import {
  entryIn,
  listIn,
  NARROWING_STEPS,
  type NarrowingStep,
  scopeIn,
  wideDocument,
} from "../support/narrowing-steps.ts";
import { documentBytes, type PolicyDocument, sshKeyLine } from "../support/policy-document.ts";

type Fields = Record<string, unknown>;

function policyOf(document: PolicyDocument, serial = 7): Policy {
  return parsePolicy(documentBytes({ ...document, serial }));
}

function after(steps: readonly NarrowingStep[], serial = 8): Policy {
  const document = wideDocument();
  for (const { apply } of steps) apply(document);
  return policyOf(document, serial);
}

const WIDE = policyOf(wideDocument());
const steps = fc.shuffledSubarray([...NARROWING_STEPS]);
const refusal = (from: Policy, to: Policy) => {
  try {
    requireNarrowing(from, to);
    return "accepted";
  } catch (error) {
    expect(error).toMatchObject({ code: "ERR_POLICY_WIDENS", exitCode: 1 });
    return error instanceof Error ? error.message : "";
  }
};

describe("a narrowing", () => {
  test("I7: whatever is narrowed, by any steps in any order, is accepted, each step under its own field", () => {
    fc.assert(
      fc.property(steps, (taken) => {
        const changes = requireNarrowing(WIDE, after(taken));
        expect(new Set(changes.map(({ kind }) => kind)).size).toBeLessThanOrEqual(1);
        for (const { field } of taken) expect(changes.map((change) => change.field)).toContain(field);
      }),
      { numRuns: 60 },
    );
  });

  test("I7: what is widened by one step, however much is narrowed besides, is refused with that step's field", () => {
    fc.assert(
      fc.property(
        steps
          .filter((taken) => taken.length > 0)
          .chain((taken) => fc.tuple(fc.constant(taken), fc.nat(taken.length - 1))),
        ([taken, at]) => {
          // The newer policy has all the narrowings but one, which the older one had.
          const [undone] = taken.slice(at);
          const field = undone?.field ?? "";
          const older = after(undone === undefined ? [] : [undone], 7);
          const newer = after(taken.toSpliced(at, 1));
          expect(refusal(older, newer)).toContain(`${field}: from `);
        },
      ),
      { numRuns: 60 },
    );
  });

  test("I7: every step by itself: forwards accepted, backwards refused, and by nothing but its field", () => {
    for (const step of NARROWING_STEPS) {
      const narrowed = after([step]);
      expect(refusal(WIDE, narrowed), step.field).toBe("accepted");
      const back = comparePolicies(narrowed, WIDE).filter(({ kind }) => kind !== "narrows");
      expect(
        back.map(({ field, kind }) => `${kind} ${field}`),
        step.field,
      ).toEqual([`${step.back} ${step.field}`]);
    }
  });

  test("I7: by brute force: of thousands of requests, a narrower policy allows none that the wider one does not", () => {
    let compared = 0;
    fc.assert(
      fc.property(steps, fc.nat(), (taken, seed) => {
        const narrowed = after(taken);
        const [wide, narrow] = [allowedRequests(WIDE, [WIDE], seed), allowedRequests(narrowed, [WIDE], seed)];
        compared += wide.asked;
        for (const request of narrow.allowed) expect(wide.allowed.has(request), request).toBe(true);
      }),
      { numRuns: 25 },
    );
    expect(compared).toBeGreaterThan(10_000);
  });

  test("I7: and the same requests find out every step that a decision alone can see, when it is undone", () => {
    for (const step of NARROWING_STEPS.filter(({ decided }) => decided)) {
      const narrowed = after([step]);
      const found = [1, 2, 3, 4].some((seed) => {
        const narrow = allowedRequests(narrowed, [WIDE, narrowed], seed).allowed;
        return [...allowedRequests(WIDE, [WIDE, narrowed], seed).allowed].some((request) => !narrow.has(request));
      });
      expect(found, step.field).toBe(true);
    }
  });

  test("I7: a bucket with less of both is never ahead of one with more", () => {
    const limit = fc.record({ perMinute: fc.integer({ min: 1, max: 600 }), burst: fc.integer({ min: 1, max: 60 }) });
    const pauses = fc.array(fc.nat(2_000), { maxLength: 60 });
    fc.assert(
      fc.property(limit, limit, pauses, (a, b, times) => {
        const less = { perMinute: Math.min(a.perMinute, b.perMinute), burst: Math.min(a.burst, b.burst) };
        let [now, ahead] = [0, 0];
        let [wide, narrow] = [fullBucket(a, 0), fullBucket(less, 0)];
        for (const pause of times) {
          now += pause;
          [wide, narrow] = [refill(a, wide, now), refill(less, narrow, now)];
          if (wide.tokens >= 1) [wide, ahead] = [spend(wide), ahead + 1];
          if (narrow.tokens >= 1) [narrow, ahead] = [spend(narrow), ahead - 1];
          expect(ahead).toBeGreaterThanOrEqual(0);
        }
      }),
    );
  });
});

/** What is neither less nor more, or comes only with a launch. */
const OTHERS: readonly (readonly [string, string, (document: PolicyDocument) => void])[] = [
  ["another digest of a mechanism", "scopes.signing.mechanisms", set("signing", 0, { digest: "sha384" })],
  ["another OAEP label", "scopes.intake.mechanisms", set("intake", 0, { label: "bb" })],
  ["no OAEP label", "scopes.intake.mechanisms", set("intake", 0, { label: undefined })],
  ["another key under the name", "keys.ec.spki", entry("keys", "ec", { spki: `sha256:${"99".repeat(32)}` })],
  ["a key on another token", "keys.spare.token", entry("keys", "spare", { token: "payments" })],
  ["another uid", "callers.signer.uid", entry("callers", "signer", { uid: 2002 })],
  ["another unit", "callers.other.unit", entry("callers", "other", { unit: "more.service" })],
  [
    "another caller for a scope",
    "scopes.vault.caller",
    (document) => void Object.assign(scopeIn(document, "vault"), { caller: "signer" }),
  ],
  ["another key of an approver", "approvers.carol.key", (document) => swapApprovers(document)],
  ["approvals for a window instead of each operation", "scopes.signing.approvals.for", approvals({ for: "window" })],
  [
    "approvals for each operation instead of a window",
    "scopes.arrived.approvals.for",
    (document) => void Object.assign(scopeIn(document, "arrived")["approvals"] as Fields, { for: "operation" }),
  ],
  [
    "another freeze bit",
    "scopes.vault.freezeBit",
    (document) => void Object.assign(scopeIn(document, "vault"), { freezeBit: 4 }),
  ],
  ["another key that arrives", "scopes.intake.unwraps.two.publicKey", unwrap({ publicKey: "AAAA" })],
  ["a key that arrives for good", "scopes.intake.unwraps.two.where", unwrap({ where: "token" })],
  ["another blob", "scopes.intake.unwraps.two.blob", unwrap({ blob: `sha256:${"08".repeat(32)}` })],
  [
    "reporting instead of killing",
    "onViolation",
    (document) => void Object.assign(document, { onViolation: "report" }),
  ],
  ["stopping instead of rebooting", "onLoginLost", (document) => void Object.assign(document, { onLoginLost: "stop" })],
  ["a device more", "devices", (document) => void Object.assign(document, { devices: [] })],
  [
    "a sandbox that lacks something",
    "sandbox",
    (document) => void Object.assign(document, { sandbox: { lacks: ["landlock-tcp"] } }),
  ],
  [
    "a token's credential",
    "tokens",
    (document) => void Object.assign(entryIn(document, "tokens", "payments"), { pin: "other" }),
  ],
  [
    "how many shims serve a module's tokens",
    "modules",
    (document) => void Object.assign(entryIn(document, "modules", "softhsm"), { shims: 2 }),
  ],
  [
    "a module's spares",
    "modules",
    (document) => void Object.assign(entryIn(document, "modules", "softhsm"), { spares: 1 }),
  ],
];

function set(scope: string, at: number, fields: Fields) {
  return (document: PolicyDocument) =>
    void Object.assign(listIn(scopeIn(document, scope), "mechanisms")[at] ?? {}, fields);
}
function entry(group: string, name: string, fields: Fields) {
  return (document: PolicyDocument) => void Object.assign(entryIn(document, group, name), fields);
}
function approvals(fields: Fields) {
  return (document: PolicyDocument) => void Object.assign(scopeIn(document, "signing")["approvals"] as Fields, fields);
}
function unwrap(fields: Fields) {
  return (document: PolicyDocument) =>
    void Object.assign(listIn(scopeIn(document, "intake"), "unwraps")[1] ?? {}, fields);
}
function swapApprovers(document: PolicyDocument): void {
  const [bob, carol] = ["bob", "carol"].map((name) => entryIn(document, "approvers", name));
  const [first, second] = [bob?.["key"], carol?.["key"]];
  Object.assign(bob ?? {}, { key: second });
  Object.assign(carol ?? {}, { key: first });
}

describe("no narrowing", () => {
  test.each(OTHERS)("I7: %s is refused by the field %s, in either direction", (_what, field, apply) => {
    const document = wideDocument();
    apply(document);
    const other = policyOf(document, 8);
    expect(refusal(WIDE, other)).toContain(`${field}: from `);
    expect(refusal({ ...other, serial: 7 }, { ...WIDE, serial: 8 })).toContain(`${field}: from `);
  });

  test("I7: the same serial or a lower one is refused, also of the same policy", () => {
    for (const serial of [7, 6, 1])
      expect(refusal(WIDE, policyOf(wideDocument(), serial))).toContain(`serial: from 7 to ${serial}`);
    expect(refusal(WIDE, policyOf(wideDocument(), 8))).toBe("accepted");
  });

  test("a refusal says whom and which keys a widening is about, every one of them, and who has to launch", () => {
    const document = wideDocument();
    listIn(scopeIn(document, "signing"), "mechanisms").push({ type: "CKM_SHA256_RSA_PKCS" });
    document.scopes.push({ ...scopeIn(document, "arrived"), name: "more" });
    Object.assign(document, { onViolation: "report" });
    const said = refusal(WIDE, policyOf(document, 8));
    expect(said).toContain(
      "scopes.signing.mechanisms: from none to CKM_SHA256_RSA_PKCS sha256 (caller signer, keys ec rsa rsa2)",
    );
    expect(said).toContain("scopes: from none to more (caller other, keys one)");
    expect(said).toContain("onViolation: from kill to report, which takes a launch");
  });

  test("owner and review date are for people: a change of them is none", () => {
    const document = { ...wideDocument(), owner: "somebody else", reviewBy: "2030-01-01" };
    expect(comparePolicies(WIDE, policyOf(document, 8))).toEqual([]);
  });

  test("callers and approvers whom no scope names may come, so that approvals can be added where there were none", () => {
    const document = wideDocument();
    Object.assign(document["approvers"] as Fields, { emil: { key: sshKeyLine("I"), notFor: [] } });
    Object.assign(document.callers, { third: { uid: 9, exe: [`sha256:${"01".repeat(32)}`], unit: null } });
    Object.assign(scopeIn(document, "vault"), {
      approvals: { required: 1, of: ["emil"], for: "operation", window: "PT5M" },
    });
    const changes = requireNarrowing(WIDE, policyOf(document, 8));
    expect(changes.map((change) => describeChange(change, WIDE))).toEqual([
      expect.stringMatching(
        /^scopes\.vault\.approvals: from none to \{.*"of":\["emil"\].*\} \(caller other, keys vault\)$/,
      ),
    ]);
  });
});
