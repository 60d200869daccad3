import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { afterAgentLoss, countAgentLoss, isAgentLossAlone } from "../../../agent/shims/agent-loss.ts";
import { countRecovery, MAX_RECOVERIES, recoveriesOf } from "../../../agent/shims/recovery.ts";
import { reason } from "../../../attest/index.ts";
import {
  clearLostRecord,
  encodeLostRecord,
  LOST_RECORD_OFFSET,
  type LostRecord,
  memoryMedium,
  readLostRecord,
  Store,
  type StoreMedium,
} from "../../../seal/index.ts";
import { BLOCK, Crash, type Fault, FaultMedium } from "../../support/fault-medium.ts";

const killed: LostRecord = { cause: "lost", reason: "the agent ended (wait status 0x9)" };
const note = (medium: StoreMedium) => {
  medium.write(LOST_RECORD_OFFSET, encodeLostRecord(killed));
  medium.flush();
};
const count = (medium: StoreMedium) => countAgentLoss(Store.open(medium).store, medium);
const lossesOf = (medium: StoreMedium) => recoveriesOf(Store.open(medium).store);

describe("a lost agent", () => {
  test("I11: is counted once by the next boot, beside what else is kept; a boot after a power cut counts nothing", () => {
    const medium = memoryMedium();
    const { store } = Store.open(medium);
    store.write({ ...store.content, ekName: "00".repeat(34) });
    countRecovery(store); // for a lost login
    note(medium);
    expect(count(medium)).toEqual({ record: killed, losses: 2 });
    expect(count(medium)).toBeNull();
    expect(Store.open(medium).store.content).toMatchObject({ ekName: "00".repeat(34), recoveries: 2 });
  });

  test("I11: that cannot be counted is known all the same, and stays noted", () => {
    const medium = memoryMedium();
    note(medium);
    const full: StoreMedium = {
      ...medium,
      write: () => {
        throw Object.assign(new Error("no room"), { code: "ENOSPC" });
      },
    };
    expect(count(full)).toEqual({ record: killed, losses: null });
    expect(readLostRecord(medium)).toEqual(killed);
  });

  test("I11: a crash or a fault at any step of the counting loses no loss and nothing else", () => {
    // the steps: the content into both slots of a new store or one of a used one, each flushed, then the record's end, flushed
    for (const kind of ["crash", "fails"] as const) {
      for (let call = 0; call < 6; call += 1) {
        for (const reaches of [0, 64, 300, (block: number) => block % 2 === 0]) {
          const disk = usedDisk();
          const faulty = new FaultMedium({ call, kind, code: "EIO", reaches } as Fault, disk);
          const counted = attempt(() => count(faulty));
          const later = faulty.afterPowerCut();
          const again = readLostRecord(later) === null ? 0 : 1;
          expect([call, kind, Store.open(later).store.content.ekName]).toEqual([call, kind, "11".repeat(34)]);
          // counted, or still noted, or both: then once too often
          expect(lossesOf(later) - 2 + again).toBeGreaterThanOrEqual(1);
          if (counted !== null && counted.losses !== null && again === 0) expect(lossesOf(later)).toBe(3);
        }
      }
    }
  });

  function usedDisk(): Uint8Array {
    const medium = memoryMedium();
    const { store } = Store.open(medium);
    store.write({ ...store.content, ekName: "11".repeat(34), recoveries: 2 });
    note(medium);
    expect(LOST_RECORD_OFFSET % BLOCK).toBe(0);
    return medium.read(0, 1 << 20);
  }

  function attempt<T>(act: () => T): T | null {
    try {
      return act();
    } catch (error) {
      if (error instanceof Crash) return null;
      throw error;
    }
  }
});

describe("the launch after a lost agent", () => {
  const after = (losses: number | null, onLoginLost: "reboot" | "stop" = "reboot") =>
    afterAgentLoss({ record: killed, losses }, { onLoginLost });

  test("I11: is made at once, then later each time, and after the fifth it waits for an operator", () => {
    expect(afterAgentLoss(null, { onLoginLost: "stop" })).toEqual({ kind: "launch" });
    expect(after(1)).toEqual({ kind: "launch" });
    const delays = [2, 3, 4, 5].map((losses) => after(losses));
    expect(delays.map((next) => (next.kind === "wait" ? next.delay : next.kind))).toEqual([
      30_000, 60_000, 120_000, 240_000,
    ]);
    expect(after(MAX_RECOVERIES + 1)).toMatchObject({
      kind: "stop",
      reasons: [{ code: "agent-lost", got: killed.reason }, { code: "recovery-limit" }],
    });
  });

  test("I11: is never made by itself under `stop`, nor where nobody could count", () => {
    expect(after(1, "stop")).toMatchObject({ kind: "stop", reasons: [{ code: "agent-lost" }] });
    expect(after(null)).toMatchObject({
      kind: "stop",
      reasons: [{ code: "agent-lost" }, { code: "recovery-uncounted" }],
    });
  });

  test("I11: whatever came before it, a reboot follows only where the reason is the lost agent alone", () => {
    const policies = fc.constantFrom("reboot" as const, "stop" as const);
    fc.assert(
      fc.property(fc.option(fc.integer({ min: 1, max: 300 })), policies, (losses, onLoginLost) => {
        const next = after(losses, onLoginLost);
        if (next.kind === "launch") expect([losses, onLoginLost]).toEqual([1, "reboot"]);
        else expect(isAgentLossAlone(next.reasons)).toBe(next.kind === "wait" || onLoginLost === "stop");
        if (next.kind === "wait") expect(next.delay).toBeGreaterThanOrEqual(30_000);
      }),
    );
    const other = reason("measurement-changed", "policy policy", "a", "b");
    expect(isAgentLossAlone([...reasonsOf(after(2)), other])).toBe(false);
    expect(isAgentLossAlone([])).toBe(false);
  });

  const reasonsOf = (next: ReturnType<typeof after>) => (next.kind === "launch" ? [] : next.reasons);
});

test("I11: a record that was taken away is gone, and what lies around it is as it was", () => {
  const medium = memoryMedium(new Uint8Array(1 << 20).fill(7));
  note(medium);
  clearLostRecord(medium);
  const bytes = medium.read(0, 1 << 20);
  expect(readLostRecord(medium)).toBeNull();
  expect(bytes.filter((byte) => byte !== 7)).toEqual(new Uint8Array(128));
});
