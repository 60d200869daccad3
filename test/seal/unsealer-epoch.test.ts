import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import {
  bootPcrValues,
  EPOCH_REF,
  epochLimit,
  RELEASE_REF,
  type Release,
  raiseSteps,
  releaseSteps,
  sealPcrValues,
} from "../../policy/index.ts";
import { signPolicy } from "../../seal/delegation.ts";
import { unsealRequest } from "../../seal/unseal.ts";
import { defineEpoch, moveEpoch, raiseEpoch, readEpoch, undefineEpoch } from "../support/epoch-fixture.ts";
import { EPOCH_HANDLE } from "../support/policy-tools.ts";
import {
  bootInto,
  createSealKeys,
  DELEGATED,
  delivered,
  type Imported,
  importInto,
  makeRelease,
  openSealed,
  releaseDraft,
  type SealKeys,
  tryUnseal,
  unsealWith,
} from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { tpmTool } from "../support/tpm-tools.ts";

// The counter only moves up: the tests of this file stand in the order of its values.

let tpm: SoftwareTpm;
let keys: SealKeys;
let pin: Imported;

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createSealKeys();
  await defineEpoch(tpm, keys);
  pin = await openSealed(tpm, "p384", keys);
});
beforeEach(() => bootInto(tpm));
afterAll(() => tpm?.stop());

const refusedBy = (command: string, rc: string) => ({
  answer: {
    kind: "refused",
    answers: [
      { command, rc, text: expect.any(String) },
      { command: "TPM2_Unseal", rc: "0x0000099d", text: expect.any(String) },
    ],
  },
  received: [new Uint8Array()],
});
const OPENED = { answer: { kind: "released", ms: expect.any(Number) }, received: [delivered()] };
const EPOCH_ENDED = refusedBy("TPM2_PolicyNV", "0x00000126");

const ofEpoch = (epoch: number, lastEpoch = DELEGATED.lastEpoch, raise = false) =>
  makeRelease(keys, { ...releaseDraft(), epoch, raise }, { ...DELEGATED, lastEpoch });
const unseal = (release: Release, discard = false) => unsealWith(tpm, pin, release, keys, { discard });

/** What a thief of the release key makes: any epoch, under the delegation that there is. */
async function forged(release: Release, epoch: number): Promise<Release> {
  const root = keys.root.spkiPem;
  return {
    ...release,
    epoch,
    unseal: await signPolicy(keys.releaseKey, releaseSteps(root, sealPcrValues(release), epoch), RELEASE_REF),
    raise: await signPolicy(keys.releaseKey, raiseSteps(root, bootPcrValues(release), epoch), EPOCH_REF),
  };
}

describe("a release's epoch", () => {
  it("I2: below its limit and at its limit it opens, over its limit the TPM refuses", async () => {
    const release = await ofEpoch(1);
    expect(await readEpoch(tpm)).toBe(1);
    expect(await unseal(release)).toEqual(OPENED);
    await moveEpoch(tpm, keys, 31);
    expect(await readEpoch(tpm)).toBe(31);
    expect(await unseal(release)).toEqual(OPENED);
    await moveEpoch(tpm, keys, 32);
    expect(await unseal(release)).toEqual(EPOCH_ENDED);
    expect(await unseal(release, true)).toEqual(EPOCH_ENDED);
    expect(await unseal(await ofEpoch(2))).toEqual(OPENED);
  });

  it("I2: deleting the counter and making it again only moves it up", async () => {
    const before = await readEpoch(tpm);
    await undefineEpoch(tpm);
    await defineEpoch(tpm, keys);
    expect(await readEpoch(tpm)).toBe(before + 1);
    expect(await unseal(await ofEpoch(1))).toEqual(EPOCH_ENDED);
  });

  it("I2: a stolen release key signs for no epoch after its delegation's last, the TPM refuses", async () => {
    const stolen = await forged(await ofEpoch(1, 1), 9);
    expect(await unseal(stolen)).toEqual(EPOCH_ENDED);
    // The thief names a higher limit than the root signed for: the root's approval is then of another policy.
    const request = unsealRequest({ ...pin, release: stolen, anchors: keys.anchors });
    const at = Buffer.from(request).indexOf(Buffer.from("01800020", "hex")) + 4 + 8;
    new DataView(request.buffer).setBigUint64(at, epochLimit(9));
    expect(await tryUnseal({ tcti: tpm.tcti, request })).toEqual(refusedBy("TPM2_PolicyAuthorize", "0x000001c4"));
    // Within the delegation the same key opens.
    expect(await unseal(await ofEpoch(2, 2))).toEqual(OPENED);
  });
});

describe("raising the epoch", () => {
  it("I2: a release raises the counter to the start of its epoch, and every lower one is over", async () => {
    const release = await ofEpoch(3, 3, true);
    const steps = 48 - (await readEpoch(tpm));
    for (let step = 0; step < steps; step++) await raiseEpoch(tpm, keys, release);
    expect(await readEpoch(tpm)).toBe(48);
    await expect(raiseEpoch(tpm, keys, release)).rejects.toThrow(/0x126/);
    expect(await unseal(await ofEpoch(2))).toEqual(EPOCH_ENDED);
    expect(await unseal(release)).toEqual(OPENED);
  });

  it("I2: neither a stolen release key, nor another image, nor a password raises it", async () => {
    await expect(raiseEpoch(tpm, keys, await forged(await ofEpoch(3, 3, true), 4))).rejects.toThrow(/0x126/);
    const next = await ofEpoch(4, 4, true);
    await tpmTool(tpm, "tpm2_pcrextend", `11:sha256=${"11".repeat(32)}`);
    await expect(raiseEpoch(tpm, keys, next)).rejects.toThrow(/0x1C4/i);
    for (const authorization of [EPOCH_HANDLE, "o"])
      await expect(tpmTool(tpm, "tpm2_nvincrement", EPOCH_HANDLE, "-C", authorization)).rejects.toThrow(
        /Failed to increment/,
      );
    expect(await readEpoch(tpm)).toBe(48);
    await bootInto(tpm);
    await raiseEpoch(tpm, keys, next);
    expect(await readEpoch(tpm)).toBe(49);
  });

  it("I2: a release without raise cannot raise", async () => {
    const release = await ofEpoch(4, 4);
    expect(release.raise).toBeNull();
    await expect(raiseEpoch(tpm, keys, { ...release, raise: release.unseal })).rejects.toThrow();
  });
});

describe("a counter that is not the one", () => {
  it("I2: missing, the refusal names TPM2_NV_ReadPublic, and TPM2_Unseal is asked all the same", async () => {
    await undefineEpoch(tpm);
    const release = await ofEpoch(4);
    const missing = refusedBy("TPM2_NV_ReadPublic", "0x0000018b");
    expect(await unseal(release)).toEqual(missing);
    expect(await unseal(release, true)).toEqual(missing);
  });

  it("I2: never written, it is refused", async () => {
    await defineEpoch(tpm, keys, { written: false });
    expect(await unseal(await ofEpoch(4))).toEqual(refusedBy("TPM2_PolicyNV", "0x0000014a"));
    await undefineEpoch(tpm);
  });

  it.each([
    "nt=counter|policywrite|authread|no_da|ownerread",
    "nt=counter|policywrite|authread",
    "nt=counter|policywrite|authread|no_da|ownerwrite",
  ])("I2: with attributes %s it has another Name, and the approval is of another policy", async (attributes) => {
    await defineEpoch(tpm, keys, { attributes });
    expect(await unseal(await ofEpoch(4))).toEqual(refusedBy("TPM2_PolicyAuthorize", "0x000001c4"));
    await undefineEpoch(tpm);
  });

  it("I2: under another root's policy it is refused", async () => {
    await defineEpoch(tpm, await createSealKeys());
    expect(await unseal(await ofEpoch(4))).toEqual(refusedBy("TPM2_PolicyAuthorize", "0x000001c4"));
    await undefineEpoch(tpm);
  });

  it("I11: after TPM2_Clear the counter goes on above its value, and the package's blob imports again", async () => {
    await defineEpoch(tpm, keys);
    const before = await readEpoch(tpm);
    await tpmTool(tpm, "tpm2_clear", "-c", "p");
    const release = await ofEpoch(4);
    expect((await unseal(release)).answer).toMatchObject({ kind: "failed", command: "TPM2_Load", rc: "0x000001df" });
    const again = { ...pin, imported: await importInto(tpm, pin.sealed) };
    expect(await unsealWith(tpm, again, release, keys)).toEqual(refusedBy("TPM2_NV_ReadPublic", "0x0000018b"));
    await defineEpoch(tpm, keys);
    expect(await readEpoch(tpm)).toBe(before + 1);
    expect(await unsealWith(tpm, again, release, keys)).toEqual(OPENED);
  });
});
