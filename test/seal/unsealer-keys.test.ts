import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import {
  credentialRef,
  delegationSteps,
  epochLimit,
  RELEASE_REF,
  type Release,
  releaseSteps,
  SEAL_PCRS,
  sealPcrValues,
} from "../../policy/index.ts";
import { signPolicy } from "../../seal/delegation.ts";
import { createSigningKey } from "../../seal/keys.ts";
import { delegatedSignature } from "../../seal/unseal.ts";
import { defineEpoch, moveEpoch, undefineEpoch } from "../support/epoch-fixture.ts";
import { PolicySession } from "../support/policy-tools.ts";
import {
  bootInto,
  createSealKeys,
  DELEGATED,
  delivered,
  type Imported,
  makeRelease,
  openSealed,
  releaseDraft,
  type SealKeys,
  signDelegationOf,
  unsealWith,
} from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { readBytes, tpmTool, withFiles } from "../support/tpm-tools.ts";

let tpm: SoftwareTpm;
let keys: SealKeys;
let release: Release;
let pin: Imported;

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createSealKeys();
  await defineEpoch(tpm, keys);
  release = await makeRelease(keys);
  pin = await openSealed(tpm, "p384", keys);
});
beforeEach(() => bootInto(tpm));
afterAll(() => tpm?.stop());

const NOTHING = [new Uint8Array()];
const refusal = (command: string, rc: string) => ({ kind: "refused", answers: [{ command, rc }] });
const SIGNATURE_REFUSED = refusal("TPM2_VerifySignature", "0x000002db");

describe("release and root keys of every kind", () => {
  it.each([
    ["rsa2048", "rsa2048", "p384"],
    ["rsa2048", "p256", "rsa"],
    ["p256", "rsa2048", "p384"],
    ["rsa2048", "rsa2048", "rsa"],
  ] as const)("I2: a %s root and a %s release key authorise, under the %s EK", async (root, releaseKey, ek) => {
    const theirs = { ...(await createSealKeys(root)), releaseKey: (await createSigningKey(releaseKey)).key };
    await undefineEpoch(tpm);
    await defineEpoch(tpm, theirs);
    const { received } = await unsealWith(tpm, await openSealed(tpm, ek, theirs), await makeRelease(theirs), theirs);
    await undefineEpoch(tpm);
    await defineEpoch(tpm, keys);
    expect(received).toEqual([delivered()]);
  });
});

describe("a release key that changes", () => {
  it("I2: the root delegates a second key, and its release opens the seal of before", async () => {
    const { key } = await createSigningKey();
    const rotated = await makeRelease({ ...keys, releaseKey: key });
    expect((await unsealWith(tpm, pin, rotated, keys)).received).toEqual([delivered()]);
    expect((await unsealWith(tpm, pin, release, keys)).received).toEqual([delivered()]);
  });

  it("I2: a lost key ends with its last epoch, and the seal goes on under the next one", async () => {
    const next = { ...keys, releaseKey: (await createSigningKey()).key };
    const lost = await makeRelease(keys, releaseDraft(), { ...DELEGATED, lastEpoch: 1 });
    const after = await makeRelease(next, { ...releaseDraft(), epoch: 2, raise: true });
    expect((await unsealWith(tpm, pin, lost, keys)).received).toEqual([delivered()]);
    expect((await unsealWith(tpm, pin, after, keys)).received).toEqual([delivered()]);
    await moveEpoch(tpm, keys, 32);
    expect(await unsealWith(tpm, pin, lost, keys)).toMatchObject({
      answer: {
        kind: "refused",
        answers: [{ command: "TPM2_PolicyNV", rc: "0x00000126" }, { command: "TPM2_Unseal" }],
      },
      received: NOTHING,
    });
    expect((await unsealWith(tpm, pin, after, keys)).received).toEqual([delivered()]);
    release = after;
  });
});

describe("a release key that the root has not approved for this", () => {
  const forOther = () => makeRelease(keys, { ...releaseDraft(), epoch: 2 }, { ...DELEGATED, credentials: ["tls-key"] });

  it("I2: a delegation for another credential is refused before the TPM is asked", async () => {
    const other = await forOther();
    await expect(unsealWith(tpm, pin, other, keys)).rejects.toMatchObject({ code: "ERR_RELEASE_REFUSED", exitCode: 1 });
    expect(() => delegatedSignature(other, "hsm-pin")).toThrow(/expected the root's approval .* got tls-key/);
  });

  it("I2: the other credential's approval under this one's name does not verify in the TPM", async () => {
    const other = await forOther();
    const signature = delegatedSignature(other, "tls-key");
    const forged = { ...other, delegation: { ...other.delegation, credentials: [{ name: "hsm-pin", signature }] } };
    const { answer, received } = await unsealWith(tpm, pin, forged, keys);
    expect(answer).toMatchObject(SIGNATURE_REFUSED);
    expect(received).toEqual(NOTHING);
  });

  it("I2: this credential under the other one's name satisfies another policy than the object's", async () => {
    const renamed = { ...pin, sealed: { ...pin.sealed, name: "tls-key" } };
    const { answer, received } = await unsealWith(tpm, renamed, await forOther(), keys);
    expect(answer).toMatchObject(refusal("TPM2_Unseal", "0x0000099d"));
    expect(received).toEqual(NOTHING);
  });

  it("I2: a release that another root delegated is refused", async () => {
    const stranger = await createSealKeys();
    const foreign = await makeRelease(stranger, { ...releaseDraft(), epoch: 2 });
    const asOurs = await unsealWith(tpm, pin, foreign, keys);
    expect(asOurs.answer).toMatchObject(SIGNATURE_REFUSED);
    const asTheirs = await unsealWith(tpm, pin, foreign, stranger);
    // Under a stranger's root the counter that the approvals name is another one.
    expect(asTheirs.answer).toMatchObject({
      kind: "refused",
      answers: [
        { command: "TPM2_PolicyAuthorize", rc: "0x000001c4" },
        { command: "TPM2_Unseal", rc: "0x0000099d" },
      ],
    });
    expect([...asOurs.received, ...asTheirs.received]).toEqual([...NOTHING, ...NOTHING]);
  });

  it("I2: approvals of a stranger's root over our counter reach a policy that is not the object's", async () => {
    const { key: root } = await createSigningKey();
    const steps = delegationSteps(keys.root.spkiPem, keys.releaseKey.spkiPem, 4);
    const signature = await signPolicy(root, steps, credentialRef("hsm-pin"));
    const ours = await makeRelease(keys, { ...releaseDraft(), epoch: 2 });
    const forged = { ...ours, delegation: { ...ours.delegation, credentials: [{ name: "hsm-pin", signature }] } };
    const { answer, received } = await unsealWith(tpm, pin, forged, keys);
    expect(answer).toMatchObject(SIGNATURE_REFUSED);
    expect(received).toEqual(NOTHING);
  });

  it("I2: a release key that no root delegated is refused", async () => {
    const stranger = await createSealKeys();
    const forged = {
      ...(await makeRelease(stranger)),
      delegation: await signDelegationOf({ ...keys, root: stranger.root }),
    };
    const { answer, received } = await unsealWith(tpm, pin, forged, keys);
    expect(answer.kind).toBe("refused");
    expect(received).toEqual(NOTHING);
  });

  it("I10: a signature with one bit changed is refused by name, each of the two", async () => {
    const flip = (base64: string) => {
      const bytes = Buffer.from(base64, "base64");
      bytes[40] = (bytes[40] ?? 0) ^ 1;
      return bytes.toString("base64");
    };
    const [credential] = release.delegation.credentials;
    if (credential === undefined) throw new Error("a credential");
    const broken = { ...credential, signature: flip(credential.signature) };
    for (const each of [
      { ...release, unseal: flip(release.unseal) },
      { ...release, delegation: { ...release.delegation, credentials: [broken] } },
    ]) {
      const { answer, received } = await unsealWith(tpm, pin, each, keys);
      expect(answer).toMatchObject(SIGNATURE_REFUSED);
      expect(received).toEqual(NOTHING);
    }
  });
});

describe("a satisfied policy", () => {
  const sized = (bytes: Uint8Array) => Uint8Array.of(bytes.length >> 8, bytes.length & 0xff, ...bytes);

  /** Everything that the unsealer does before TPM2_Unseal, by stock tools; then something else. */
  async function satisfied(
    use: (session: PolicySession, at: (name: string) => string) => Promise<void>,
  ): Promise<void> {
    const { sealed, imported } = pin;
    const { releaseKey, epoch, delegation } = release;
    const root = keys.root.spkiPem;
    await withFiles({ public: sized(sealed.objectPublic), private: sized(imported) }, async (at) => {
      const load = ["-C", "0x81010016", "-u", at("public"), "-r", at("private"), "-c", at("object")];
      await tpmTool(tpm, "tpm2_load", ...load);
      await tpmTool(tpm, "tpm2_flushcontext", "-t");
      await PolicySession.with(tpm, async (session) => {
        await session.pcr(SEAL_PCRS);
        await session.epoch("ule", epochLimit(epoch));
        await session.command("TPM2_CC_Unseal");
        const steps = releaseSteps(root, sealPcrValues(release), epoch);
        await session.authorize({ keyPem: releaseKey, steps, policyRef: RELEASE_REF, signature: release.unseal });
        await session.epoch("ule", epochLimit(delegation.lastEpoch));
        await session.authorize({
          keyPem: root,
          steps: delegationSteps(root, releaseKey, delegation.lastEpoch),
          policyRef: credentialRef("hsm-pin"),
          signature: delegatedSignature(release, "hsm-pin"),
        });
        await use(session, at);
      });
      await tpmTool(tpm, "tpm2_flushcontext", "-t");
    });
  }

  it("I2: stock tools reach the same policy, and get the key of 32 bytes and not the secret", async () => {
    await satisfied(async ({ authorization }, at) => {
      await tpmTool(tpm, "tpm2_unseal", "-c", at("object"), "-p", authorization, "-o", at("data"));
      expect(await readBytes(at("data"))).toHaveLength(32);
    });
  });

  it("I7: it cannot duplicate the object, nor give it a password", async () => {
    await satisfied(async ({ authorization }, at) => {
      const duplicate = ["-C", "null", "-G", "null", "-c", at("object"), "-p", authorization];
      const output = ["-r", at("duplicate"), "-s", at("seed")];
      await expect(tpmTool(tpm, "tpm2_duplicate", ...duplicate, ...output)).rejects.toThrow(/0x9A4/i);
    });
    await satisfied(async ({ authorization }, at) => {
      const change = ["-C", "0x81010016", "-c", at("object"), "-p", authorization, "-r", at("changed"), "password"];
      await expect(tpmTool(tpm, "tpm2_changeauth", ...change)).rejects.toThrow(/0x9A4/i);
    });
  });

  it("I3: it does not outlive an extend of the agent PCR", async () => {
    await satisfied(async ({ authorization }, at) => {
      await tpmTool(tpm, "tpm2_pcrextend", `13:sha256=${"cc".repeat(32)}`);
      await expect(
        tpmTool(tpm, "tpm2_unseal", "-c", at("object"), "-p", authorization, "-o", at("data")),
      ).rejects.toThrow(/0x128/);
    });
  });
});
