import type { Tpm as Tss } from "node-tpm2-tss";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  bootPcrValues,
  EPOCH_INDEX,
  EPOCH_REF,
  epochLimit,
  epochStart,
  measureEpochName,
  RELEASE_REF,
  type Release,
  raiseSteps,
  releaseSteps,
  sealPcrValues,
  toHex,
} from "../../policy/index.ts";
import { signPolicy } from "../../seal/delegation.ts";
import { provisionEpoch, raiseEpoch, readEpoch } from "../../seal/epoch.ts";
import { incrementAgain, incrementAsAttacker } from "../support/epoch-attacks.ts";
import { openPackage } from "../support/open-package.ts";
import {
  answerOf,
  type BenchKeys,
  boot,
  createBenchKeys,
  loadedHandles,
  makeRelease,
  PIN,
  sealFor,
  snapshot,
  withTss,
} from "../support/sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { type BusFault, openTpmBus } from "../support/tpm-bus.ts";

let tpm: SoftwareTpm;
let keys: BenchKeys;
let fresh: Awaited<ReturnType<typeof snapshot>>;
/** Releases of two images: the second one ends epoch 1. */
let first: Release;
let second: Release;

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createBenchKeys();
  fresh = await snapshot(tpm);
  first = await makeRelease(keys, { raise: true });
  second = await makeRelease(keys, { image: "image-2", epoch: 2, raise: true });
});
beforeEach(() => fresh.restore());
afterAll(async () => {
  await fresh?.discard();
  await tpm?.stop();
});

const provision = (tss: Tss) => provisionEpoch(tss, keys.root.spkiPem, first.delegation);
const raise = (tss: Tss, release: Release) => raiseEpoch(tss, keys.root.spkiPem, release);

async function counterValue(tss: Tss): Promise<bigint> {
  const state = await readEpoch(tss);
  if (state.kind === "missing" || state.value === null) throw new Error("no counter");
  return state.value;
}

describe("provisioning", () => {
  test("I2: the counter's Name is the predicted one, before and after its first increment, on every TPM", async () => {
    const { spkiPem } = keys.root;
    await withTss(tpm, async (tss) => {
      expect(await readEpoch(tss)).toEqual({ kind: "missing" });
      await provision(tss);
      expect(await readEpoch(tss)).toEqual({ kind: "present", name: measureEpochName(spkiPem), value: 1n });
    });
    await using other = await startSwtpm({ endorsement: "none" });
    await using bus = await openTpmBus(other);
    bus.arm(({ code }) => (code === 0x134 ? "refuse" : null)); // NV_Increment
    await withTss({ tcti: bus.tcti("agent") }, async (tss) => {
      await expect(provision(tss)).rejects.toMatchObject({ command: "NV_Increment" });
      const name = measureEpochName(spkiPem, { written: false });
      expect(await readEpoch(tss)).toEqual({ kind: "present", name, value: null });
    });
  });

  test("I11: after a crash at any of its commands, before the TPM saw it or after, it is repeated and then complete", async () => {
    await using bus = await openTpmBus(tpm);
    const agent = { tcti: bus.tcti("agent") };
    bus.arm();
    await withTss(agent, provision);
    const { length } = bus.commands;
    expect(length).toBeGreaterThan(10);
    for (let at = 0; at < length; at++) {
      for (const fault of ["refuse", "lose"] as const) {
        await fresh.restore();
        bus.arm(({ index }): BusFault => (index === at ? fault : null));
        await withTss(agent, (tss) => provision(tss).catch(() => undefined));
        await bus.flushClient("agent");
        bus.arm();
        await withTss(agent, async (tss) => {
          await provision(tss);
          expect(await counterValue(tss), `${fault} ${at}`).toBe(1n);
          expect(await loadedHandles(tss), `${fault} ${at}`).toEqual([]);
        });
      }
    }
  });

  test("I2: repeated, it changes nothing", async () => {
    await withTss(tpm, async (tss) => {
      for (let again = 0; again < 3; again++) await provision(tss);
      expect(await counterValue(tss)).toBe(1n);
    });
  });

  test("I2: another index in the counter's place is neither incremented nor replaced", async () => {
    await withTss(tpm, async (tss) => {
      await tss.nvDefineSpace({ index: EPOCH_INDEX, attributes: 0x0204_0014, dataSize: 8 });
      await expect(provision(tss)).rejects.toMatchObject({ code: "ERR_SEAL_POLICY" });
      expect(await readEpoch(tss)).toMatchObject({ kind: "present", value: null });
    });
  });
});

describe("raising", () => {
  beforeEach(async () => {
    await boot(tpm);
    await withTss(tpm, provision);
  });

  test("I2: it ends at the start of the release's epoch, and repeated it changes nothing", async () => {
    await withTss(tpm, async (tss) => {
      expect(await raise(tss, first)).toEqual({ from: 1n, to: epochStart(1) });
      expect(await raise(tss, first)).toEqual({ from: 16n, to: 16n });
      expect(await counterValue(tss)).toBe(16n);
      expect(await loadedHandles(tss)).toEqual([]);
    });
  });

  test("I2: at the start of the epoch the TPM refuses the next increment, however often the approval is replayed", async () => {
    await withTss(tpm, async (tss) => {
      await raise(tss, first);
      for (let again = 0; again < 3; again++)
        expect(await answerOf(incrementAsAttacker(tss, keys, first))).toBe("0x126");
      expect(await counterValue(tss)).toBe(16n);
    });
  });

  test("I11: after a crash between two increments it goes on from there", async () => {
    await using bus = await openTpmBus(tpm);
    for (const fault of ["refuse", "lose"] as const) {
      let left = 5;
      bus.arm(({ code }) => (code === 0x134 && left-- === 0 ? fault : null));
      await withTss({ tcti: bus.tcti("agent") }, async (tss) => {
        await expect(raise(tss, first)).rejects.toMatchObject({ command: "NV_Increment", rc: 0x101 });
      });
      await bus.flushClient("agent");
    }
    await withTss(tpm, async (tss) => {
      expect(await counterValue(tss)).toBe(1n + 5n + 6n);
      expect(await raise(tss, first)).toEqual({ from: 12n, to: 16n });
    });
  });

  test("I2: a PCR that moves meanwhile costs another session, not the raise", async () => {
    await using bus = await openTpmBus(tpm);
    let seen = 0;
    await withTss({ tcti: bus.tcti("other") }, async (other) => {
      const extended: Promise<unknown>[] = [];
      bus.arm(({ client, code }) => {
        // Queued behind the command that is on its way: between PolicyNV and NV_Increment.
        if (client === "agent" && code === 0x149 && seen++ === 0) extended.push(other.pcrEvent(10, Uint8Array.of(1)));
        return null;
      });
      await withTss({ tcti: bus.tcti("agent") }, async (tss) => {
        expect(await raise(tss, first)).toEqual({ from: 1n, to: 16n });
      });
      await Promise.all(extended);
    });
    // Two PolicyNV for each of 15 increments, and those of the sessions that were lost.
    expect(seen).toBeGreaterThan(30);
  });

  test("I2: a release that raises nothing raises nothing", async () => {
    const quiet = await makeRelease(keys, { raise: false });
    await withTss(tpm, async (tss) => {
      await expect(raise(tss, quiet)).rejects.toMatchObject({ code: "ERR_SEAL_POLICY" });
      expect(await counterValue(tss)).toBe(1n);
    });
  });

  test("I2: a release of another root does not raise this root's counter", async () => {
    const stranger = await createBenchKeys();
    const release = await makeRelease(stranger, { raise: true });
    await withTss(tpm, async (tss) => {
      await expect(raiseEpoch(tss, stranger.root.spkiPem, release)).rejects.toMatchObject({ code: "ERR_SEAL_POLICY" });
      expect(await answerOf(incrementAsAttacker(tss, stranger, release))).toBe("0x1c4");
      await expect(raise(tss, release)).rejects.toMatchObject({ command: "VerifySignature", rc: 0x2db });
      expect(await counterValue(tss)).toBe(1n);
    });
  });

  test("I2: whoever has stolen a release key raises no further than the last epoch the root gave it", async () => {
    const honest = await makeRelease(keys, { raise: true, lastEpoch: 1 });
    const steps = raiseSteps(keys.root.spkiPem, bootPcrValues(honest), 5);
    const forged: Release = { ...honest, epoch: 5, raise: await signPolicy(keys.releaseKey, steps, EPOCH_REF) };
    await withTss(tpm, async (tss) => {
      await expect(raise(tss, forged)).rejects.toMatchObject({ rc: 0x126 });
      expect(await counterValue(tss)).toBe(epochStart(1));
    });
  });

  test("I2: root of an older image cannot raise the counter with the file of a newer release", async () => {
    await withTss(tpm, async (tss) => {
      await expect(raise(tss, second)).rejects.toMatchObject({ command: "PolicyPCR", rc: 0x1c4 });
      expect(await answerOf(incrementAsAttacker(tss, keys, second, { anyPcrs: true }))).toBe("0x1c4");
      expect(await counterValue(tss)).toBe(1n);
    });
  });

  test("I2: no password and no owner increments it, and the first increment's approval is good once", async () => {
    await withTss(tpm, async (tss) => {
      await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
      expect(await answerOf(tss.nvIncrement(index))).toBe("0x12f");
      expect(await answerOf(tss.nvIncrement(index, { authority: "owner" }))).toBe("0x149");
      expect(await answerOf(tss.nvWrite(index, new Uint8Array(8)))).not.toBe(null);
      expect(await answerOf(incrementAgain(tss, keys, first))).toBe("0x99d");
      expect(await counterValue(tss)).toBe(1n);
    });
  });
});

describe("revocation", () => {
  test.each(["rsa2048", "p384"] as const)(
    "I2: once a release of epoch 2 has raised, one of epoch 1 opens nothing under the %s EK, also after TPM2_Clear",
    async (ek) => {
      const sealed = await withTss(tpm, (tss) => sealFor(tss, keys, { ek }));
      const open = (release: Release) =>
        withTss(tpm, (tss) => openPackage(tss, { sealed, release, anchors: keys.anchors }));
      await withTss(tpm, provision);
      await boot(tpm, "image-1");
      expect(await open(first)).toEqual(PIN);
      // The new release does not end the old one by being booted, only by raising.
      await boot(tpm, "image-2");
      expect(await open(second)).toEqual(PIN);
      await boot(tpm, "image-1");
      expect(await open(first)).toEqual(PIN);

      await boot(tpm, "image-2");
      await withTss(tpm, (tss) => raise(tss, second));
      expect(await open(second)).toEqual(PIN);
      await boot(tpm, "image-1");
      expect(await answerOf(open(first))).toBe("0x126");

      await withTss(tpm, (tss) => tss.clear("lockout"));
      await withTss(tpm, provision);
      expect(await withTss(tpm, counterValue)).toBe(epochStart(2) + 1n);
      await boot(tpm, "image-1");
      expect(await answerOf(open(first))).toBe("0x126");
      await boot(tpm, "image-2");
      expect(await open(second)).toEqual(PIN);
    },
  );

  test("I2: fifteen TPM2_Clear do not end the present epoch, and the sixteenth does", async () => {
    const sealed = await withTss(tpm, (tss) => sealFor(tss, keys));
    await withTss(tpm, provision);
    await boot(tpm, "image-1");
    const clearAndOpen = () =>
      withTss(tpm, async (tss) => {
        await tss.clear("lockout");
        await provision(tss);
        return openPackage(tss, { sealed, release: first, anchors: keys.anchors });
      });
    await withTss(tpm, (tss) => raise(tss, first));
    for (let clears = 1; clears <= 15; clears++) expect(toHex(await clearAndOpen())).toBe(toHex(PIN));
    expect(await withTss(tpm, counterValue)).toBe(epochLimit(1));
    expect(await answerOf(clearAndOpen())).toBe("0x126");
  });

  test("I2: a release key that the root gave an earlier last epoch opens nothing after it, whatever it signs", async () => {
    const sealed = await withTss(tpm, (tss) => sealFor(tss, keys));
    const short = await makeRelease(keys, { lastEpoch: 1 });
    await withTss(tpm, provision);
    await boot(tpm, "image-2");
    await withTss(tpm, (tss) => raise(tss, second));
    await boot(tpm, "image-1");
    const steps = releaseSteps(keys.root.spkiPem, sealPcrValues(short), 7);
    const forged: Release = { ...short, epoch: 7, unseal: await signPolicy(keys.releaseKey, steps, RELEASE_REF) };
    const open = withTss(tpm, (tss) => openPackage(tss, { sealed, release: forged, anchors: keys.anchors }));
    expect(await answerOf(open)).toBe("0x126");
  });
});
