import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Continuity, Tier } from "../../../attest/index.ts";
import {
  afterClone,
  afterReport,
  afterSilence,
  enrolledView,
  flagNames,
  type MachineView,
  machineStates,
  type Outcome,
  type Verified,
} from "../../../attest/service/machine-state.ts";

const continuity: Continuity = {
  ...{ version: 2, clock: "1000", resetCount: 3, restartCount: 0, bootSeed: "b0".repeat(16) },
  ...{ firmwareVersion: "0000000020191023", epoch: "1" },
  audit: { seq: 7, hash: "aa".repeat(32) },
};
const fingerprint = { release: "i1", policy: "p1", profile: "s1", library: "l1", closure: "c1" };
const at = "2026-06-01T00:00:00.000Z";

function judged(tier: Tier, changes: Partial<Verified> = {}): Verified {
  const findings = tier === "affirming" ? [] : [{ tier, code: "assurance", item: "x", expected: "a", got: "b" }];
  const result = {
    tier,
    findings,
    release: "first",
    launch: "serving",
    machine: "m1",
  } as unknown as Verified["result"]; // the parts that are looked at
  return { kind: "judged", result, continuity, fingerprint, violations: 0, ...changes };
}
const refused = (code: string, authentic = true): Outcome => ({
  ...{ kind: "refused", authentic, reasons: [{ code, item: "x", expected: "a", got: "b" }] },
});
const kinds = (view: MachineView, outcome: Outcome) => afterReport(view, outcome, at).events.map(({ kind }) => kind);
const seen = afterReport(enrolledView(at), judged("affirming"), at).view;

describe("a machine's state", () => {
  test("I9: is the tier of its last report", () => {
    for (const tier of ["affirming", "warning", "contraindicated"] as const) {
      const { view, events } = afterReport(enrolledView(at), judged(tier), at);
      expect(view).toMatchObject({ state: tier, tier, lastSeen: at, release: "first", launch: "serving", flags: [] });
      expect(events).toEqual([{ at, kind: tier, detail: expect.objectContaining({ from: "enrolled" }) }]);
    }
  });

  test("that does not change is no event", () => {
    expect(kinds(seen, judged("affirming"))).toEqual([]);
  });

  test.each<[string, Outcome, readonly string[], readonly string[]]>([
    [
      "another boot is flagged",
      judged("warning", { continuity: { ...continuity, resetCount: 4 } }),
      ["rebooted"],
      ["rebooted", "warning"],
    ],
    [
      "so is a resume",
      judged("affirming", { continuity: { ...continuity, restartCount: 1 } }),
      ["rebooted"],
      ["rebooted"],
    ],
    [
      "another image is flagged",
      judged("affirming", { fingerprint: { ...fingerprint, release: "i2" } }),
      ["changed"],
      ["changed"],
    ],
    [
      "each changed part is an event, and one flag",
      judged("affirming", { fingerprint: { ...fingerprint, policy: "p2", library: "l2" } }),
      ["changed"],
      ["changed", "changed"],
    ],
    [
      "a part that the launch did not reach is no change",
      judged("affirming", { fingerprint: { ...fingerprint, library: null } }),
      [],
      [],
    ],
    ["a violation is flagged", judged("warning", { violations: 2 }), ["violation"], ["violation", "warning"]],
    ["a rollback is flagged and refused", refused("tpm-rolled-back"), ["rolled-back"], ["rolled-back", "refused"]],
    ["so is a shorter audit log", refused("audit-rolled-back"), ["rolled-back"], ["rolled-back", "refused"]],
    ["a report that does not explain itself is refused", refused("pcr-replay"), [], ["refused"]],
    ["what another key signed says nothing about it", refused("ak-not-enrolled", false), [], []],
  ])("I8 I9: %s", (_, outcome, flags, events) => {
    expect(afterReport(seen, outcome, at).view.flags).toEqual(flags);
    expect(kinds(seen, outcome)).toEqual(events);
  });

  test("I5: the same violations again raise nothing, more of them do, and a new boot counts from none", () => {
    const { view } = afterReport(seen, judged("warning", { violations: 2 }), at);
    expect(kinds(view, judged("warning", { violations: 2 }))).toEqual([]);
    expect(kinds(view, judged("warning", { violations: 3 }))).toEqual(["violation"]);
    expect(kinds(view, judged("warning", { violations: 1, continuity: { ...continuity, resetCount: 4 } }))).toEqual([
      "rebooted",
      "violation",
    ]);
  });

  test("what was measured before a launch that came less far is still compared with", () => {
    const { view } = afterReport(
      seen,
      judged("contraindicated", { fingerprint: { ...fingerprint, library: null } }),
      at,
    );
    expect(kinds(view, judged("contraindicated", { fingerprint: { ...fingerprint, library: "l2" } }))).toEqual([
      "changed",
    ]);
  });

  test("is silent past the interval, once, and speaks again with the next report", () => {
    const now = (seconds: number) => new Date(Date.parse(at) + 1000 * seconds);
    expect(afterSilence(seen, now(300), 300)).toBeNull();
    const silent = afterSilence(seen, now(301), 300);
    expect(silent?.view.state).toBe("silent");
    expect(silent?.events).toEqual([
      expect.objectContaining({ kind: "silent", detail: { from: "affirming", lastSeen: at } }),
    ]);
    expect(afterSilence(silent?.view ?? seen, now(999), 300)).toBeNull();
    expect(afterReport(silent?.view ?? seen, judged("affirming"), at).view.state).toBe("affirming");
    expect(afterSilence(enrolledView(at), now(301), 300)?.view.state).toBe("silent");
  });

  test("flags stay through whatever comes, in one order, each once", () => {
    const outcome = fc.oneof(
      fc.constantFrom<Tier>("affirming", "warning", "contraindicated").chain((tier) =>
        fc
          .record({ violations: fc.nat(3), resetCount: fc.nat(3), library: fc.constantFrom("l1", "l2", null) })
          .map((made) =>
            judged(tier, {
              violations: made.violations,
              continuity: { ...continuity, resetCount: made.resetCount },
              fingerprint: { ...fingerprint, library: made.library },
            }),
          ),
      ),
      fc
        .record({ code: fc.constantFrom("pcr-replay", "clock-went-back"), authentic: fc.boolean() })
        .map(({ code, authentic }) => refused(code, authentic)),
    );
    fc.assert(
      fc.property(fc.array(outcome, { maxLength: 12 }), (outcomes) => {
        let view = afterClone(seen, "m2", at).view;
        for (const next of outcomes) {
          const before = view.flags;
          const { view: after, events } = afterReport(view, next, at);
          expect(after.flags).toEqual(flagNames.filter((flag) => after.flags.includes(flag)));
          for (const flag of before) expect(after.flags).toContain(flag);
          if (after.state !== view.state) expect(events.at(-1)?.kind).toBe(after.state);
          expect(machineStates).toContain(after.state);
          view = after;
        }
      }),
    );
  });
});
