import fc from "fast-check";
import type { Tpm as Tss } from "node-tpm2-tss";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { toHex, utf8 } from "../../policy/index.ts";
import { carryOutOrder, type OrderPlace } from "../../seal/carry-out-order.ts";
import { openEndorsementKey } from "../../seal/endorsement.ts";
import {
  FREEZE_ATTRIBUTES,
  FREEZE_INDEX,
  freezeHex,
  measureFreezeName,
  provisionFreeze,
  readFreeze,
  replaceFreeze,
  setFreeze,
} from "../../seal/freeze-bits.ts";
import type { Order } from "../../seal/order.ts";
import { createOwnershipSecret, deriveOwnership, takeOwnership } from "../../seal/ownership.ts";
import { provisionRecords } from "../../seal/tpm-records.ts";
import { answerOf, loadedHandles, lockOut, lockoutCounter, snapshot, withTss } from "../support/sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { type BusFault, openTpmBus } from "../support/tpm-bus.ts";

let tpm: SoftwareTpm;
let fresh: Awaited<ReturnType<typeof snapshot>>;
const own = deriveOwnership(createOwnershipSecret());
const BOOT = new Uint8Array(32).fill(5);

beforeAll(async () => {
  tpm = await startSwtpm({ endorsement: "keys" });
  fresh = await snapshot(tpm);
});
beforeEach(() => fresh.restore());
afterAll(async () => {
  await fresh?.discard();
  await tpm?.stop();
});

const bits = (value: bigint) => ({ kind: "bits", bits: value });

async function takeOwner(tss: Tss): Promise<void> {
  await using ek = await openEndorsementKey(tss, "p384");
  await takeOwnership(tss, ek, own);
}

/** Carries out an order to keep `keep` of what is there now, with or without the owner's authorisation. */
async function unfreeze(tss: Tss, keep: bigint, owner = true, order: Partial<Order> = {}): Promise<void> {
  await using ek = await openEndorsementKey(tss, "p384");
  const state = await readFreeze(tss);
  const place: OrderPlace = {
    ...{ ekName: ek.name, boot: BOOT, provision: async () => undefined },
    owner: owner ? { auth: own.ownerAuth, saltKey: ek } : null,
  };
  const now = state.kind === "bits" ? freezeHex(state.bits) : null;
  const wanted = {
    version: 1,
    order: "unfreeze",
    ekName: toHex(ek.name),
    boot: toHex(BOOT),
    id: "01".repeat(16),
    bits: now,
  } as const;
  await carryOutOrder(tss, { ...wanted, keep: freezeHex(keep), ...order } as Order, place);
}

describe("the freeze bits", () => {
  test("I8: are there after provisioning, clear, under the one Name, and provisioning again keeps what is set", async () => {
    await withTss(tpm, async (tss) => {
      expect(await readFreeze(tss)).toEqual({ kind: "missing" });
      await expect(setFreeze(tss, 1n)).rejects.toMatchObject({ code: "ERR_SEAL_RECORD", got: "missing" });
      await provisionRecords(tss);
      expect(await readFreeze(tss)).toEqual(bits(0n));
      await using index = await tss.trFromTpmPublic(FREEZE_INDEX);
      expect((await tss.nvReadPublic(index)).name).toEqual(measureFreezeName());
      expect(await setFreeze(tss, 2n)).toBe(2n);
      await provisionRecords(tss);
      expect(await readFreeze(tss)).toEqual(bits(2n));
    });
  });

  test("I8: what is set adds up and stays set: over power cuts, and with anything that a guest without the owner can do", async () => {
    await withTss(tpm, async (tss) => {
      await provisionFreeze(tss);
      await takeOwner(tss);
    });
    const masks = fc.sample(fc.bigInt(0n, 2n ** 64n - 1n), { numRuns: 5, seed: 7 });
    let all = 0n;
    for (const mask of [...masks, 1n, 1n << 63n]) {
      all |= mask;
      await tpm.restart();
      await withTss(tpm, async (tss) => {
        expect(await setFreeze(tss, mask)).toBe(all);
        expect(await readFreeze(tss)).toEqual(bits(all));
      });
    }
    await withTss(tpm, async (tss) => {
      await using index = await tss.trFromTpmPublic(FREEZE_INDEX);
      const tries = [
        () => tss.nvWrite(index, new Uint8Array(8)), // not a plain index
        () => tss.nvUndefineSpace(index),
        () => tss.nvDefineSpace({ index: FREEZE_INDEX, attributes: FREEZE_ATTRIBUTES, dataSize: 8 }),
        () => tss.clear("lockout"),
      ];
      const answers = [];
      for (const attempt of tries) answers.push(await answerOf(attempt()));
      expect(answers).toEqual(["0x82", "0x9a2", "0x9a2", "0x98e"]);
      expect(await readFreeze(tss)).toEqual(bits(all));
    });
  });

  test("I8: a TPM that somebody has locked out reads and sets them all the same", async () => {
    await withTss(tpm, async (tss) => {
      await provisionFreeze(tss);
      await lockOut(tss);
      expect(await setFreeze(tss, 4n)).toBe(4n);
    });
  });

  test("I8: a look-alike with other attributes, size, policy or authorisation is foreign: neither read, set nor believed", async () => {
    const plain = { index: FREEZE_INDEX, attributes: FREEZE_ATTRIBUTES, dataSize: 8 };
    const definitions = [
      { ...plain, attributes: FREEZE_ATTRIBUTES & ~0x0200_0000 }, // guesses count
      { ...plain, attributes: 0x0204_0004 }, // any 8 bytes, which can be written back to zero
      { ...plain, attributes: 0x0204_0014 }, // a counter
      { ...plain, attributes: FREEZE_ATTRIBUTES | 2 }, // the owner may set bits too
      { ...plain, authPolicy: new Uint8Array(32).fill(1) },
      { ...plain, auth: utf8("guess me") },
    ];
    for (const definition of definitions) {
      await fresh.restore();
      await withTss(tpm, async (tss) => {
        await using index = await tss.nvDefineSpace(definition);
        const type = definition.attributes & 0xf0;
        if (type === 0x20) await tss.nvSetBits(index, 0n);
        else if (type === 0x10) await tss.nvIncrement(index);
        else await tss.nvWrite(index, new Uint8Array(8));
      });
      await withTss(tpm, async (tss) => {
        expect(await readFreeze(tss)).toMatchObject({ kind: "foreign" });
        await expect(setFreeze(tss, 1n)).rejects.toMatchObject({ code: "ERR_SEAL_RECORD" });
        await expect(provisionFreeze(tss)).rejects.toMatchObject({ code: "ERR_SEAL_RECORD", got: "another index" });
        expect([await lockoutCounter(tss), await loadedHandles(tss)]).toEqual([0, []]);
      });
    }
  });

  test("I8: TPM2_Clear takes them away: what is there then is no bit that is clear", async () => {
    await withTss(tpm, async (tss) => {
      await provisionFreeze(tss);
      await setFreeze(tss, 3n);
      await tss.clear("lockout");
      expect(await readFreeze(tss)).toEqual({ kind: "missing" });
    });
  });
});

describe("an order to unfreeze", () => {
  test("I8: clears what it does not keep, with the owner's authorisation and not without", async () => {
    await withTss(tpm, async (tss) => {
      await provisionFreeze(tss);
      await setFreeze(tss, 0b1011n);
      await takeOwner(tss);
      await expect(unfreeze(tss, 0n, false)).rejects.toMatchObject({ code: "ERR_SEAL_OWNED" });
      expect(await readFreeze(tss)).toEqual(bits(0b1011n));
      await unfreeze(tss, 0b1000n);
      expect(await readFreeze(tss)).toEqual(bits(0b1000n));
      expect(await loadedHandles(tss)).toEqual([]);
      // The connection forgets the owner's authorisation.
      await using index = await tss.trFromTpmPublic(FREEZE_INDEX);
      expect(await answerOf(tss.nvUndefineSpace(index))).toBe("0x9a2");
    });
  });

  test("I8: another owner's authorisation takes nothing away", async () => {
    await withTss(tpm, async (tss) => {
      await provisionFreeze(tss);
      await setFreeze(tss, 1n);
      await takeOwner(tss);
      await using ek = await openEndorsementKey(tss, "p384");
      const other = { auth: new Uint8Array(32).fill(1), saltKey: ek };
      expect(await answerOf(replaceFreeze(tss, 0n, other))).toBe("0x9a2");
      expect(await readFreeze(tss)).toEqual(bits(1n));
    });
  });

  test("I8: for other bits, another boot or another TPM changes nothing", async () => {
    await withTss(tpm, async (tss) => {
      await provisionFreeze(tss);
      await setFreeze(tss, 1n);
      const wrong: readonly Partial<Order>[] = [
        { bits: freezeHex(3n) },
        { bits: null },
        { boot: "00".repeat(32) },
        { ekName: `000b${"00".repeat(32)}` },
      ] as Partial<Order>[];
      for (const each of wrong)
        await expect(unfreeze(tss, 0n, false, each)).rejects.toMatchObject({ code: "ERR_ORDER" });
      expect(await readFreeze(tss)).toEqual(bits(1n));
    });
  });

  test.each(["refuse", "lose"] as const)(
    "I11: cut off at any of its commands (%s), leaves what was, what was ordered, or bits under which nothing is served; given again, it is carried out",
    async (fault) => {
      await withTss(tpm, async (tss) => {
        await provisionFreeze(tss);
        await setFreeze(tss, 0b110n);
        await takeOwner(tss);
      });
      await using before = disposable(await snapshot(tpm));
      await using bus = await openTpmBus(tpm);
      const agent = { tcti: bus.tcti("agent") };
      bus.arm();
      await withTss(agent, (tss) => unfreeze(tss, 0b100n));
      const { length } = bus.commands;
      expect(length).toBeGreaterThan(5);
      const seen = new Set<string>();
      for (let at = 0; at < length; at++) {
        await before.restore();
        bus.arm(({ index }): BusFault => (index === at ? fault : null));
        await withTss(agent, (tss) => unfreeze(tss, 0b100n).catch(() => undefined)).catch(() => undefined);
        await bus.flushClient("agent");
        bus.arm();
        await withTss(agent, async (tss) => {
          const state = await readFreeze(tss);
          const left = state.kind === "bits" ? `${state.bits}` : state.kind;
          seen.add(left);
          expect(["6", "4", "missing", "unwritten"], `${at}`).toContain(left);
          await unfreeze(tss, state.kind === "bits" ? 0b100n : 0n);
          expect(await readFreeze(tss)).toEqual(bits(state.kind === "bits" ? 0b100n : 0n));
          expect(await loadedHandles(tss)).toEqual([]);
        });
      }
      expect([...seen]).toEqual(expect.arrayContaining(["6", "missing", "unwritten"]));
    },
  );
});

type Snapshot = Awaited<ReturnType<typeof snapshot>>;
const disposable = (taken: Snapshot): Snapshot & AsyncDisposable => ({
  ...taken,
  [Symbol.asyncDispose]: () => taken.discard(),
});
