import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  afterLoss,
  countRecovery,
  forgetRecoveries,
  type Loss,
  MAX_RECOVERIES,
  recoveriesOf,
} from "../../../agent/shims/recovery.ts";
import { commitServed, encodeSlot, memoryMedium, Store } from "../../../seal/index.ts";

const loss = (changes: Partial<Loss> = {}): Loss => ({
  ...{ onLoginLost: "reboot", violated: false, recoveries: 0 },
  ...changes,
});

const losses = fc.record({
  onLoginLost: fc.constantFrom("reboot" as const, "stop" as const),
  violated: fc.boolean(),
  recoveries: fc.option(fc.nat(300)),
});

describe("a lost login", () => {
  test("I11: leads to a reboot, later each time, and after the fifth to none", () => {
    const delays = Array.from({ length: MAX_RECOVERIES + 1 }, (_, recoveries) => afterLoss(loss({ recoveries })));
    expect(delays.slice(0, -1).map((recovery) => (recovery.kind === "reboot" ? recovery.delay : null))).toEqual([
      0, 30_000, 60_000, 120_000, 240_000,
    ]);
    expect(delays.at(-1)).toMatchObject({ kind: "stop", reasons: [{ code: "recovery-limit" }] });
  });

  test("I5: of a boot that has seen a violation never leads to one: its log is the evidence", () => {
    expect(afterLoss(loss({ violated: true }))).toMatchObject({ reasons: [{ code: "recovery-withheld" }] });
  });

  test("I11: leads to none where nobody could count them", () => {
    expect(afterLoss(loss({ recoveries: null }))).toMatchObject({ reasons: [{ code: "recovery-uncounted" }] });
  });

  test("I11: reboots only where policy, boot and count all allow it", () => {
    fc.assert(
      fc.property(losses, (found) => {
        const allowed =
          found.onLoginLost === "reboot" && !found.violated && (found.recoveries ?? Infinity) < MAX_RECOVERIES;
        expect(afterLoss(found).kind === "reboot").toBe(allowed);
      }),
    );
  });
});

describe("the count of reboots", () => {
  test("I11: outlives the boot, and what else is kept; a store without it reads as before", () => {
    const medium = memoryMedium();
    const entry = { name: "hsm-pin", package: Uint8Array.of(1), imported: null };
    const serve = (generation: number) =>
      commitServed(Store.open(medium).store, { ...entry, generation }, new Uint8Array(34).fill(7));
    serve(1);
    const before = encodeSlot(9n, Store.open(medium).store.content);
    for (const expected of [1, 2, 3]) {
      countRecovery(Store.open(medium).store);
      expect(recoveriesOf(Store.open(medium).store)).toBe(expected);
    }
    serve(2);
    expect(recoveriesOf(Store.open(medium).store)).toBe(3);
    const { store } = Store.open(medium);
    forgetRecoveries(store);
    expect(recoveriesOf(Store.open(medium).store)).toBe(0);
    const { ekName, entries } = store.content;
    const earlier = entries.map((kept) => ({ ...kept, generation: 1 }));
    expect(encodeSlot(9n, { ekName, entries: earlier, recoveries: 0 })).toEqual(before);
  });
});
