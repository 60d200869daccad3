import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Incident, violationsOf } from "../../attest/index.ts";
import { attempt, device, replacement } from "../support/appraisal-rows.ts";
import { makeClaims, servingEvents } from "../support/evidence-maker.ts";

const of = (incidents: readonly Incident[], counts: readonly (readonly [string, number])[] = []) => {
  const asserted = { incidents, violations: new Map(counts) };
  return violationsOf(makeClaims({ events: servingEvents(), launch: "serving", claims: {}, asserted }).asserted);
};
const anyIncident = fc.oneof(
  fc.constantFrom("ptrace", "bpf", "execve").map(attempt),
  fc.constantFrom("added" as const, "removed" as const).map(device),
  fc.constant(replacement),
);
const anyCounts = fc.array(fc.tuple(fc.string(), fc.maxSafeNat()), { maxLength: 4 });

describe("the violations of a report", () => {
  test("I5: are the devices that came and the denied calls, of which the larger number counts", () => {
    expect(of([]).count).toBe(0);
    expect(of([attempt("ptrace"), attempt("bpf")], [["ptrace", 1]])).toMatchObject({ calls: 2, count: 2 });
    expect(of([attempt("ptrace")], [["ptrace", 7]])).toMatchObject({ calls: 7, count: 7 });
    expect(of([attempt("ptrace"), device("added")], [["ptrace", 7]])).toMatchObject({ calls: 7, count: 8 });
    expect(of([device("added"), device("removed"), replacement])).toMatchObject({ calls: 0, count: 1 });
  });

  test("I5: no flood of calls hides a device, and no number goes beyond what is exact", () => {
    fc.assert(
      fc.property(fc.array(anyIncident), anyCounts, (incidents, counts) => {
        const { devices, calls, count } = of(incidents, counts);
        expect(devices).toEqual(incidents.filter(({ what }) => what === "device"));
        expect(Number.isSafeInteger(count)).toBe(true);
        expect(count).toBeGreaterThanOrEqual(calls);
        const one = of([...incidents, device("added")], counts);
        expect(one.count).toBe(Math.min(count + 1, Number.MAX_SAFE_INTEGER));
        expect(of([...incidents, device("removed"), replacement], counts).count).toBe(count);
      }),
    );
  });
});
