import { describe, expect, it } from "vitest";
import { LOOKS, memoryFindings, toldOf } from "./crowd/memory.ts";
import { CALLER_NAMES, KEY_NAMES, LIMITS, planWorkloads, WORKLOADS } from "./crowd/plan.ts";
import { LeastBucket } from "./crowd/workload.ts";
import { heldFindings, heldIn, type Look } from "./machine/held.ts";
import { Judge } from "./machine/judge.ts";
import { ENDING, KINDS, PASSING, type PlannedFault, planFaults } from "./machine/plan.ts";
import { run, SOAK, soaked, TEN_SECONDS } from "./soaked.ts";

describe("the soak's crowd", () => {
  it("I6, I7: of 64 workloads of eight callers at both doors none gets another's scope, key, session, rate or budget, nor waits for one that is stuck or floods", async () => {
    const { code, operations, faults, violations, crowd } = await soaked("--only", "crowd", "--minutes", TEN_SECONDS);
    expect([code, violations]).toEqual([0, []]);
    expect(operations).toBeGreaterThan(WORKLOADS);
    expect(faults).toBeGreaterThan(100);
    const { descriptors, heap, resident } = crowd.memory;
    expect(descriptors.after).toBeLessThanOrEqual(descriptors.before);
    for (const { middle, end } of [heap, resident]) expect(Math.min(middle, end)).toBeGreaterThan(1);
  });

  it.each([
    ["flat", () => 50, 9, []],
    ["grown in the first half only", (look: number) => 30 + Math.min(look, 10) * 3, 9, []],
    ["growing", (look: number) => 30 + look, 9, [/^the agent's heap grew over the last half: from \d+ to \d+ MiB$/]],
    ["one look above the others", (look: number) => (look === 19 ? 90 : 50), 9, []],
    ["flat, with a descriptor more", () => 50, 10, [/^1 descriptors of dropped connections are left$/]],
  ])("I10: memory that is %s is judged as that", (_what, heap, after, expected) => {
    const mib = 1 << 20;
    const looks = Array.from({ length: LOOKS }, (_, look) => ({
      ...{ heapBytes: heap(look) * mib, externalBytes: 0, residentBytes: 100 * mib },
    }));
    const findings = memoryFindings(toldOf(looks, { before: 9, after }));
    expect(findings).toEqual(expected.map((text) => expect.stringMatching(text)));
  });

  it("I6: a workload counts its own tokens as low as it can know them", () => {
    const bucket = new LeastBucket({ perMinute: 60, burst: 2 });
    const asked = (from: number, to: number, given: boolean) => bucket.asked(from, to, given);
    expect([asked(0, 5, true), asked(10, 1010, true)]).toEqual([2, 1.005]);
    expect(asked(1510, 1520, false)).toBeCloseTo(0.505, 6); // not from when it was asked: from when it was answered
    expect(asked(2020, 2030, true)).toBeCloseTo(1.005, 6);
    expect(asked(90_000, 90_010, true)).toBe(2);
  });

  it("plans every kind of workload at each door, with keys of their own and shared ones, and every caller at both doors", () => {
    const planned = planWorkloads();
    expect(new Set(planned.map(({ scope }) => scope)).size).toBe(WORKLOADS);
    expect(new Set(planned.map(({ key }) => key))).toEqual(new Set(KEY_NAMES));
    const kinds = new Set(planned.map(({ kind, door }) => `${kind} ${door}`));
    expect(kinds.size).toBe(2 * Object.keys(LIMITS).length);
    expect(new Set(planned.map(({ caller }) => caller))).toEqual(new Set(CALLER_NAMES));
    for (const name of CALLER_NAMES)
      expect(new Set(planned.flatMap(({ caller, door }) => (caller === name ? [door] : []))).size).toBe(2);
  });
});

describe("the soak's machine", () => {
  it("plans the same for the same seed, and every kind in every deck", () => {
    const taken = (from: Iterator<PlannedFault, never>, count: number) =>
      Array.from({ length: count }, () => from.next().value);
    const both = ({ first, second }: ReturnType<typeof planFaults>) => [taken(first, 40), taken(second, 40)];
    expect(both(planFaults(7))).toEqual(both(planFaults(7)));
    expect(both(planFaults(7))).not.toEqual(both(planFaults(8)));
    const [first = [], second = []] = both(planFaults(7)).map((half) => half.map(({ kind }) => kind));
    const later = first.slice(ENDING.length);
    expect(first.slice(0, ENDING.length).sort()).toEqual([...ENDING].sort());
    expect(later.slice(0, KINDS.length).sort()).toEqual([...KINDS].sort());
    expect(second.slice(PASSING.length, 2 * PASSING.length).sort()).toEqual([...PASSING].sort());
  });

  it("takes a failure for a violation unless a fault that was under way may have it", () => {
    const judge = new Judge();
    const window = judge.open("shim-kill", ["token-error"], 100);
    window.to = 200;
    const failed = (what: string, began: number, ended: number) => judge.failed({ who: "w", what, began, ended });
    failed("token-error", 90, 110);
    failed("token-error", 190, 210);
    expect(judge.violations).toEqual([]);
    failed("token-error", 90, 99);
    failed("token-error", 201, 210);
    failed("audit", 110, 120);
    const outside = "w: token-error with no fault under way";
    expect(judge.violations).toEqual([outside, outside, "w: audit during shim-kill"]);
  });

  it.each([
    ["flat", () => 50, 9, []],
    [
      "growing",
      (look: number) => 50 + 5 * look,
      9,
      ["agent: resident memory grew over the second half: from 67.5 to 127.5 MiB"],
    ],
    ["flat, with a descriptor more", () => 50, 10, ["agent: 1 descriptors are left"]],
  ])("I10: what an agent holds that is %s is judged as that", (_what, resident, after, expected) => {
    const looks = Array.from({ length: 20 }, (_, at): Look => {
      const other = { pid: at, descriptors: at, residentBytes: at }; // replaced all the time
      const residentBytes = resident(at) * (1 << 20);
      return { agent: { pid: 7, descriptors: at < 19 ? 9 : after, residentBytes }, spawner: other, verifier: other };
    });
    expect(heldFindings(heldIn(looks), true)).toEqual(expected);
  });
});

it("the soak refuses arguments that mean nothing", async () => {
  const wrong = [
    ["--minutes", "0"],
    ["--minutes", "x"],
    ["--minutes", "Infinity"],
    ["--seed", "x"],
    ["--only", "me"],
  ];
  for (const args of [...wrong, ["--plant", "tree"], ["more"]]) {
    const refused = run(process.execPath, [SOAK, ...args]);
    await expect(refused, args.join(" ")).rejects.toMatchObject({ code: 2, stdout: "" });
  }
});
