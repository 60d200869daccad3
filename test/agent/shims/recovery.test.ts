import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  afterLoss,
  countRecovery,
  forgetRecoveries,
  isOutageAgain,
  type Loss,
  MAX_RECOVERIES,
  recoveriesOf,
} from "../../../agent/shims/recovery.ts";
import { reason } from "../../../attest/index.ts";
import { commitServed, encodeSlot, memoryMedium, Store } from "../../../seal/index.ts";

const loss = (changes: Partial<Loss> = {}): Loss => ({
  ...{ onLoginLost: "reboot", violated: false, recoveries: 0, lost: "login" },
  ...changes,
});

const losses = fc.record({
  onLoginLost: fc.constantFrom("reboot" as const, "stop" as const),
  violated: fc.boolean(),
  recoveries: fc.option(fc.nat(300)),
  lost: fc.constantFrom("login" as const, "agent" as const),
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

describe("a refused launch", () => {
  const absent = reason("hsm-absent", "signing", "a token", "none");
  const unable = reason("ERR_SHIM_REFUSED", "launch (unsealing)", "0x0", "0x30");
  const counted = (recoveries: number) => {
    const { store } = Store.open(memoryMedium());
    store.write({ ...store.content, recoveries });
    return store;
  };

  test("I11: of a boot that is a recovery already, for nothing but an absent HSM, is the same loss again", () => {
    expect(isOutageAgain([absent], counted(1))).toBe(true);
    expect(isOutageAgain([absent, unable], counted(3))).toBe(true);
  });

  test("I11: for anything else besides, or of a first boot, waits for an operator", () => {
    const others = [
      reason("login-tried", "hsm-pin", "a PIN that was not tried", "generation 1"),
      reason("ERR_SHIM_REFUSED", "launch (logging-in)", "0x0", "0x30"),
      reason("measurement-changed", "policy policy", "a", "b"),
    ];
    for (const other of others) {
      expect(isOutageAgain([other], counted(1))).toBe(false);
      expect(isOutageAgain([absent, other], counted(1))).toBe(false);
    }
    expect(isOutageAgain([absent], counted(0))).toBe(false);
    expect(isOutageAgain([], counted(1))).toBe(false);
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
    store.write({ ...store.content, recoveries: 255 });
    countRecovery(store);
    expect(recoveriesOf(store)).toBe(255);
    const earlier = entries.map((kept) => ({ ...kept, generation: 1 }));
    expect(encodeSlot(9n, { ekName, entries: earlier, recoveries: 0 })).toEqual(before);
  });
});
