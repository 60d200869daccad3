import type { Tpm as Tss } from "node-tpm2-tss";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  credentialRef,
  delegationSteps,
  EPOCH_ATTRIBUTES,
  EPOCH_INDEX,
  epochLimit,
  epochStart,
  measureEpochName,
  measureEpochPolicy,
  measureKeyName,
  type Release,
  releaseSteps,
  sealPcrValues,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { importSealed, openEndorsementKey } from "../../seal/endorsement.ts";
import { provisionEpoch, raiseEpoch, readEpoch, undefineEpoch } from "../../seal/epoch.ts";
import { createOwnershipSecret, deriveOwnership, takeOwnership } from "../../seal/ownership.ts";
import type { SealedPackage } from "../../seal/package.ts";
import { runSteps } from "../support/epoch-attacks.ts";
import { openPackage, unsealTickets } from "../support/open-package.ts";
import {
  answerOf,
  type BenchKeys,
  boot,
  createBenchKeys,
  lockoutCounter,
  makeRelease,
  PIN,
  sealFor,
  snapshot,
  withTss,
} from "../support/sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";

// Root of a guest has the whole TPM but for the signatures; the host has the TPM's state besides.

let tpm: SoftwareTpm;
let keys: BenchKeys;
/** Provisioned, at epoch 1. */
let served: Awaited<ReturnType<typeof snapshot>>;
let first: Release;
let second: Release;
let sealed: SealedPackage;
const ownership = deriveOwnership(createOwnershipSecret());

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createBenchKeys();
  first = await makeRelease(keys, { raise: true });
  second = await makeRelease(keys, { image: "image-2", epoch: 2, raise: true });
  await boot(tpm);
  await withTss(tpm, async (tss) => {
    await provision(tss);
    await raiseEpoch(tss, keys.root.spkiPem, first);
    sealed = await sealFor(tss, keys);
  });
  served = await snapshot(tpm);
});
beforeEach(async () => {
  await served.restore();
  await boot(tpm);
});
afterAll(async () => {
  await served?.discard();
  await tpm?.stop();
});

const provision = (tss: Tss) => provisionEpoch(tss, keys.root.spkiPem, first.delegation);
const open = (tss: Tss, release = first) => openPackage(tss, { sealed, release, anchors: keys.anchors });

async function counterValue(tss: Tss): Promise<bigint> {
  const state = await readEpoch(tss);
  if (state.kind === "missing" || state.value === null) throw new Error("no counter");
  return state.value;
}

/** Without our comparison of Names: the TPM has to refuse by itself. */
async function unsealWithAnyIndex(tss: Tss, release = first): Promise<void> {
  const root = keys.root.spkiPem;
  const credential = { sealed, release, anchors: keys.anchors };
  const tickets = await unsealTickets(tss, credential);
  await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
  await using session = await tss.startAuthSession({ kind: "policy" });
  const steps = [
    ...releaseSteps(root, sealPcrValues(release), release.epoch),
    ...delegationSteps(root, release.releaseKey, release.delegation.lastEpoch),
    { kind: "authorize", keyName: measureKeyName(root), policyRef: credentialRef(sealed.name) } as const,
  ];
  await runSteps(tss, session, steps, { index, tickets, anyPcrs: false });
}

async function undefine(tss: Tss, handle = EPOCH_INDEX): Promise<void> {
  await using index = await tss.trFromTpmPublic(handle);
  await tss.nvUndefineSpace(index);
}

/** A counter of root's own, run up to `value` and deleted: the TPM remembers. */
async function pushHighest(tss: Tss, value: bigint): Promise<void> {
  const handle = 0x0180_0777;
  await using index = await tss.nvDefineSpace({ index: handle, attributes: 0x0204_0014, dataSize: 8 });
  const read = async () => new DataView((await tss.nvRead(index)).buffer).getBigUint64(0);
  await tss.nvIncrement(index);
  while ((await read()) < value) await tss.nvIncrement(index);
  await tss.nvUndefineSpace(index);
}

async function own(tss: Tss): Promise<void> {
  await using ek = await openEndorsementKey(tss, "p384");
  await takeOwnership(tss, ek, ownership);
}

describe("root of the guest and the counter", () => {
  test("I2: deleted and made again it goes on one higher, and the present release still opens", async () => {
    await withTss(tpm, async (tss) => {
      for (let again = 1n; again <= 3n; again++) {
        await undefine(tss);
        expect(await answerOf(open(tss))).not.toBe(null);
        await provision(tss);
        expect(await counterValue(tss)).toBe(epochStart(1) + again);
        expect(await open(tss)).toEqual(PIN);
      }
    });
  });

  test("I2: deleted and made again after a release has raised, it does not bring the older release back", async () => {
    await boot(tpm, "image-2");
    await withTss(tpm, (tss) => raiseEpoch(tss, keys.root.spkiPem, second));
    await boot(tpm, "image-1");
    await withTss(tpm, async (tss) => {
      await undefine(tss);
      await provision(tss);
      expect(await counterValue(tss)).toBe(epochStart(2) + 1n);
      expect(await answerOf(open(tss))).toBe("0x126");
    });
  });

  test.each([
    ["an ordinary index", { attributes: 0x0204_0004, authPolicy: new Uint8Array() }],
    ["a counter that a password increments", { attributes: EPOCH_ATTRIBUTES | 0x4, authPolicy: null }],
    ["a counter that the owner increments", { attributes: EPOCH_ATTRIBUTES | 0x2, authPolicy: null }],
    ["a counter without NO_DA", { attributes: EPOCH_ATTRIBUTES & ~0x0200_0000, authPolicy: null }],
    ["a counter under another policy", { attributes: EPOCH_ATTRIBUTES, authPolicy: new Uint8Array(32).fill(1) }],
    ["a counter under no policy", { attributes: EPOCH_ATTRIBUTES | 0x4, authPolicy: new Uint8Array() }],
  ])("I2: %s in its place has another Name, and nothing opens", async (_what, { attributes, authPolicy }) => {
    const root = keys.root.spkiPem;
    await withTss(tpm, async (tss) => {
      await undefine(tss);
      const definition = { attributes, authPolicy: authPolicy ?? measureEpochPolicy(root) };
      await using index = await tss.nvDefineSpace({ index: EPOCH_INDEX, dataSize: 8, ...definition });
      // A low value where the attacker can write one.
      if ((attributes & 0xf0) === 0) await tss.nvWrite(index, new Uint8Array(8));
      else await answerOf(tss.nvIncrement(index, { authority: (attributes & 0x2) !== 0 ? "owner" : "index" }));
      const state = await readEpoch(tss);
      expect(state).toMatchObject({ kind: "present" });
      expect(state.kind === "present" && toHex(state.name)).not.toBe(toHex(measureEpochName(root)));
      await expect(open(tss)).rejects.toMatchObject({ code: "ERR_SEAL_POLICY" });
      expect(await answerOf(unsealWithAnyIndex(tss))).toMatch(/^0x(?:1c4|14a)$/);
      await expect(provision(tss)).rejects.toMatchObject({ code: "ERR_SEAL_POLICY" });
    });
  });

  test("I2: the same counter with an authorisation has our Name, and only denies: nothing opens, nothing is counted", async () => {
    await withTss(tpm, async (tss) => {
      await undefine(tss);
      const authPolicy = measureEpochPolicy(keys.root.spkiPem);
      const definition = { index: EPOCH_INDEX, attributes: EPOCH_ATTRIBUTES, dataSize: 8, authPolicy };
      await tss.nvDefineSpace({ ...definition, auth: utf8("mine") });
      await provision(tss); // root has the approval of the first increment too
    });
    await withTss(tpm, async (tss) => {
      expect(await readEpoch(tss)).toMatchObject({ name: measureEpochName(keys.root.spkiPem), value: null });
      expect(await answerOf(open(tss))).toBe("0x9a2");
      expect(await lockoutCounter(tss)).toBe(0);
    });
  });

  test("I2: TPM2_Clear moves it up by one; the sealed package is imported again and opens", async () => {
    await withTss(tpm, async (tss) => {
      const imported = await importSealed(tss, sealed);
      const credential = { sealed, release: first, anchors: keys.anchors };
      expect(await openPackage(tss, { ...credential, imported })).toEqual(PIN);
      await tss.clear("lockout");
      expect(await readEpoch(tss)).toEqual({ kind: "missing" });
      await provision(tss);
      expect(await counterValue(tss)).toBe(epochStart(1) + 1n);
      expect(await answerOf(openPackage(tss, { ...credential, imported }))).toBe("0x1df");
      expect(await openPackage(tss, credential)).toEqual(PIN);
    });
  });

  test("I2: with a counter of its own root pushes ours beyond the present epoch, which denies and opens nothing", async () => {
    await withTss(tpm, async (tss) => {
      await pushHighest(tss, epochLimit(1));
      await undefine(tss);
      await provision(tss);
      expect(await counterValue(tss)).toBe(epochLimit(1) + 1n);
      expect(await answerOf(open(tss))).toBe("0x126");
    });
    // A release of a higher epoch is the way out.
    await boot(tpm, "image-2");
    await withTss(tpm, async (tss) => expect(await open(tss, second)).toEqual(PIN));
  });

  test("I2: a power cycle, a TPM Restart and a TPM Resume leave the value as it is", async () => {
    const value = await withTss(tpm, counterValue);
    for (const type of ["clear", "state"] as const) {
      await withTss(tpm, (tss) => tss.shutdown("state"));
      await tpm.restart("none");
      await withTss(tpm, async (tss) => {
        await tss.startup(type);
        expect(await counterValue(tss)).toBe(value);
      });
    }
    await tpm.restart();
    expect(await withTss(tpm, counterValue)).toBe(value);
  });
});

describe("once the owner's and the lockout's authorisation are set", () => {
  beforeEach(() => withTss(tpm, own));

  test("I2: root can neither delete the counter nor define one of its own, and what was sealed still opens", async () => {
    await withTss(tpm, async (tss) => {
      expect(await answerOf(undefine(tss))).toBe("0x9a2");
      expect(await answerOf(pushHighest(tss, 100n))).toBe("0x9a2");
      expect(await counterValue(tss)).toBe(epochStart(1));
      expect(await open(tss)).toEqual(PIN);
    });
    await boot(tpm, "image-2");
    await withTss(tpm, async (tss) => {
      expect(await raiseEpoch(tss, keys.root.spkiPem, second)).toEqual({ from: 16n, to: 32n });
      expect(await open(tss, second)).toEqual(PIN);
    });
  });

  test("I2: a lost root is replaced with the owner's authorisation; the TPM then opens for the new root, and no more for the old", async () => {
    const next = await createBenchKeys();
    const [low, high] = [await makeRelease(next, { raise: true }), await makeRelease(next, { epoch: 2, raise: true })];
    const old = await makeRelease(keys, { epoch: 2, raise: true });
    await withTss(tpm, async (tss) => {
      await raiseEpoch(tss, keys.root.spkiPem, old);
      await expect(provisionEpoch(tss, next.root.spkiPem, high.delegation)).rejects.toMatchObject({
        code: "ERR_SEAL_POLICY",
      });
      expect(await answerOf(undefineEpoch(tss))).toBe("0x9a2");
      await tss.setAuth("owner", ownership.ownerAuth);
      await undefineEpoch(tss);
      await provisionEpoch(tss, next.root.spkiPem, high.delegation);
      // The new root's releases go on from the old one's epoch.
      expect(await counterValue(tss)).toBe(epochStart(2) + 1n);
      const renewed = await sealFor(tss, next);
      expect(await openPackage(tss, { sealed: renewed, release: high, anchors: next.anchors })).toEqual(PIN);
      expect(await answerOf(openPackage(tss, { sealed: renewed, release: low, anchors: next.anchors }))).toBe("0x126");
      await expect(open(tss, old)).rejects.toMatchObject({ code: "ERR_SEAL_POLICY" });
      expect(await answerOf(unsealWithAnyIndex(tss, old))).toMatch(/^0x(?:1c4|14a)$/);
    });
  });

  test("I2: TPM2_Clear is refused to the guest, also to the platform once the firmware has closed it", async () => {
    // What firmware does before it starts the operating system.
    await withTss(tpm, (tss) => tss.hierarchyChangeAuth("platform", utf8("a random value")));
    await withTss(tpm, async (tss) => {
      expect(await answerOf(tss.clear("lockout"))).toBe("0x98e");
      expect(await answerOf(tss.clear("lockout"))).toBe("0x921");
      expect(await answerOf(tss.clear("platform"))).toBe("0x9a2");
      expect(await lockoutCounter(tss)).toBe(0);
      expect(await open(tss)).toEqual(PIN);
    });
  });
});

describe("the host", () => {
  test("I2, its limit: whoever puts back the TPM's earlier state brings the ended release back, and the PIN comes out", async () => {
    const before = await snapshot(tpm);
    await boot(tpm, "image-2");
    await withTss(tpm, (tss) => raiseEpoch(tss, keys.root.spkiPem, second));
    await boot(tpm, "image-1");
    await withTss(tpm, async (tss) => expect(await answerOf(open(tss))).toBe("0x126"));
    await before.restore();
    await before.discard();
    await boot(tpm, "image-1");
    await withTss(tpm, async (tss) => {
      expect(await counterValue(tss)).toBe(epochStart(1));
      expect(await open(tss)).toEqual(PIN);
    });
  });
});
