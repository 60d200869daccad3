import { closeSync, writeSync } from "node:fs";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Release, sha256, utf8 } from "../../policy/index.ts";
import { runUnsealer, unsealRequest } from "../../seal/unseal.ts";
import { defineEpoch } from "../support/epoch-fixture.ts";
import {
  bootInto,
  createSealKeys,
  delivered,
  drain,
  extendAgentPcr,
  type Imported,
  importInto,
  LAUNCH,
  makeRelease,
  openPipes,
  openSealed,
  releaseDraft,
  type SealKeys,
  tpmTool,
  tryUnseal,
  UNSEALER,
  unsealWith,
  withFiles,
} from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { openInterposer } from "../support/tpm-interposer.ts";

let tpm: SoftwareTpm;
let keys: SealKeys;
let release: Release;
let under: Readonly<Record<"p384" | "rsa", Imported>>;

const EKS = ["p384", "rsa"] as const;
const CAP = { kind: "cap", name: "serving", sha256: sha256(new Uint8Array()) } as const;
const TPM2_CREATE_PRIMARY = 0x131;
const NOTHING = [new Uint8Array()];
const MEASUREMENT_REFUSED = {
  kind: "refused",
  answers: [
    { command: "TPM2_PolicyPCR", rc: "0x000001c4", text: expect.any(String) },
    { command: "TPM2_Unseal", rc: "0x0000099d", text: expect.any(String) },
  ],
};

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createSealKeys();
  await defineEpoch(tpm, keys);
  release = await makeRelease(keys);
  under = { p384: await openSealed(tpm, "p384", keys), rsa: await openSealed(tpm, "rsa", keys) };
});
beforeEach(() => bootInto(tpm));
afterAll(() => tpm?.stop());

/** One wrong password for a key of somebody else, on a TPM that allows none. */
async function lockOut(): Promise<void> {
  await tpmTool(tpm, "tpm2_dictionarylockout", "-s", "-n", "1", "-t", "1000", "-l", "1000");
  await withFiles({}, async (at) => {
    await tpmTool(tpm, "tpm2_createprimary", "-C", "o", "-p", "right", "-c", at("key"));
    await tpmTool(tpm, "tpm2_flushcontext", "-t");
    await tpmTool(tpm, "tpm2_create", "-C", at("key"), "-P", "wrong").catch(() => undefined);
    await tpmTool(tpm, "tpm2_flushcontext", "-t");
  });
}

describe("a launch that a release describes", () => {
  it.each(EKS)("I2: under the %s EK the secret, and only the secret, reaches the sink", async (ek) => {
    const { answer, received } = await unsealWith(tpm, under[ek], release, keys);
    expect(answer).toEqual({ kind: "released", ms: expect.any(Number) });
    expect(received).toEqual([delivered()]);
  });

  it("I2: every sink receives the secret", async () => {
    const { received } = await unsealWith(tpm, under.p384, release, keys, { sinks: 3 });
    expect(received).toEqual([delivered(), delivered(), delivered()]);
  });

  it("I11: without persistent EKs the same keys are made from their templates", async () => {
    await using bare = await startSwtpm();
    await defineEpoch(bare, keys);
    for (const handle of ["0x81010001", "0x81010016"])
      await tpmTool(bare, "tpm2_evictcontrol", "-C", "p", "-c", handle);
    expect((await tpmTool(bare, "tpm2_getcap", "handles-persistent")).trim()).toBe("");
    await bootInto(bare);
    for (const ek of EKS) {
      const { answer, received } = await unsealWith(bare, await openSealed(bare, ek, keys), release, keys);
      expect(answer.kind).toBe("released");
      expect(received).toEqual([delivered()]);
    }
    expect((await tpmTool(bare, "tpm2_getcap", "handles-transient")).trim()).toBe("");
  });

  it("I11: what was imported once loads again after every power cycle", async () => {
    for (let round = 0; round < 3; round++) {
      await bootInto(tpm);
      expect((await unsealWith(tpm, under.p384, release, keys)).received).toEqual([delivered()]);
    }
  });

  it("I4: the secret is not readable on the way from the TPM", async () => {
    await using interposer = await openInterposer(tpm);
    const { received } = await unsealWith(tpm, under.p384, release, keys, { tcti: interposer.tcti });
    expect(received).toEqual([delivered()]);
    const traffic = Buffer.concat(interposer.traffic);
    expect(traffic.length).toBeGreaterThan(1000);
    expect(traffic.includes(delivered().subarray(2))).toBe(false);
    // The persistent key was found good: nothing had to be made again.
    expect(interposer.commands).not.toContain(TPM2_CREATE_PRIMARY);
  });

  it("I4: a public area that only claims the EK's Name is not what the session is salted to", async () => {
    const readPublic = 0x173;
    const inModulus = 150;
    let rewritten = 0;
    const rewrite = (command: number, response: Buffer) => {
      if (command !== readPublic || response.length < 300) return response;
      rewritten += 1;
      return Buffer.from(response.map((byte, index) => (index === inModulus ? byte ^ 1 : byte)));
    };
    await using interposer = await openInterposer(tpm, { rewrite });
    const { answer, received } = await unsealWith(tpm, under.rsa, release, keys, { tcti: interposer.tcti });
    expect(rewritten).toBe(1);
    expect(interposer.commands).toContain(TPM2_CREATE_PRIMARY);
    // The key is made again from its template, and that answer is the genuine one.
    expect(answer.kind).toBe("released");
    expect(received).toEqual([delivered()]);
  });

  it("I2: a PCR that moves between policy and unseal only costs another session", async () => {
    await using interposer = await openInterposer(tpm, { extendBeforeUnseal: 2 });
    const { answer, received } = await unsealWith(tpm, under.p384, release, keys, { tcti: interposer.tcti });
    expect(answer.kind).toBe("released");
    expect(received).toEqual([delivered()]);
  });

  it("I10: a PCR that never stops moving ends in the TPM's refusal after eight sessions", async () => {
    await using interposer = await openInterposer(tpm, { extendBeforeUnseal: 100 });
    const { answer, received } = await unsealWith(tpm, under.p384, release, keys, { tcti: interposer.tcti });
    expect(answer).toEqual({
      kind: "refused",
      answers: [{ command: "TPM2_Unseal", rc: "0x00000128", text: expect.any(String) }],
    });
    expect(received).toEqual(NOTHING);
    expect(interposer.unseals).toBe(8);
  });

  it.each(EKS)("I11: a TPM in dictionary-attack lockout still unseals under the %s EK", async (ek) => {
    await lockOut();
    expect(await tpmTool(tpm, "tpm2_getcap", "properties-variable")).toMatch(/inLockout: +1/);
    const { answer } = await unsealWith(tpm, under[ek], release, keys);
    await tpmTool(tpm, "tpm2_dictionarylockout", "-c");
    expect(answer.kind).toBe("released");
  });

  it("I2: with --discard a TPM that would release writes nothing", async () => {
    const { answer, received } = await unsealWith(tpm, under.p384, release, keys, { discard: true });
    expect(answer).toEqual({ kind: "discarded" });
    expect(received).toEqual(NOTHING);
    const request = unsealRequest({ ...under.p384, release, anchors: keys.anchors });
    expect((await tryUnseal({ tcti: tpm.tcti, request, discard: true, sinks: 0 })).answer).toEqual({
      kind: "discarded",
    });
  });

  it("I10: a sink that nobody reads fails the attempt after ten seconds and keeps nothing waiting", async () => {
    const request = unsealRequest({ ...under.p384, release, anchors: keys.anchors });
    const [pipe] = await openPipes(1);
    if (pipe === undefined) throw new Error("one pipe");
    writeSync(pipe.writeEnd, new Uint8Array(65_536));
    const answer = await runUnsealer({ path: UNSEALER, tcti: tpm.tcti, request, sinks: [pipe.writeEnd] });
    expect(answer).toMatchObject({ kind: "failed", command: "write" });
    expect(drain(pipe.readEnd).every((byte) => byte === 0)).toBe(true);
    for (const fd of [pipe.readEnd, pipe.writeEnd]) closeSync(fd);
    expect((await tpmTool(tpm, "tpm2_getcap", "handles-loaded-session")).trim()).toBe("");
  });
});

describe("a launch that no release describes", () => {
  it("I2: a changed measurement is refused by the TPM itself", async () => {
    const evil = { kind: "library", name: "/usr/lib/evil.so", sha256: sha256(utf8("evil")) } as const;
    await bootInto(tpm, [...LAUNCH.slice(0, 1), evil]);
    for (const discard of [false, true]) {
      const { answer, received } = await unsealWith(tpm, under.p384, release, keys, { discard });
      expect(answer).toEqual(MEASUREMENT_REFUSED);
      expect(received).toEqual(NOTHING);
    }
  });

  it("I2: another boot PCR is refused", async () => {
    await tpmTool(tpm, "tpm2_pcrextend", `11:sha256=${"11".repeat(32)}`);
    expect((await unsealWith(tpm, under.p384, release, keys)).answer).toEqual(MEASUREMENT_REFUSED);
  });

  it("I3: after the cap nothing unseals, though it did before", async () => {
    expect((await unsealWith(tpm, under.p384, release, keys)).answer.kind).toBe("released");
    await extendAgentPcr(tpm, [CAP]);
    for (const ek of EKS) {
      const { answer, received } = await unsealWith(tpm, under[ek], release, keys);
      expect(answer).toEqual(MEASUREMENT_REFUSED);
      expect(received).toEqual(NOTHING);
    }
  });

  it("I11: failing fifty times leaves no session and no object in the TPM", async () => {
    await extendAgentPcr(tpm, [CAP]);
    for (let round = 0; round < 25; round++) {
      for (const ek of EKS) expect((await unsealWith(tpm, under[ek], release, keys)).answer.kind).toBe("refused");
    }
    for (const handles of ["handles-transient", "handles-loaded-session", "handles-saved-session"]) {
      expect((await tpmTool(tpm, "tpm2_getcap", handles)).trim()).toBe("");
    }
  });

  it("I2: a release for another launch is refused", async () => {
    const file = { kind: "file", name: "/etc/x", sha256: sha256(utf8("x")) } as const;
    const other = await makeRelease(keys, releaseDraft([...LAUNCH, file]));
    expect((await unsealWith(tpm, under.p384, other, keys)).answer).toEqual(MEASUREMENT_REFUSED);
  });
});

describe("a package for another TPM", () => {
  it("I2: is neither imported nor opened", async () => {
    await using other = await startSwtpm();
    for (const ek of EKS) {
      const foreign = await openSealed(other, ek, keys);
      await expect(importInto(tpm, foreign.sealed)).rejects.toMatchObject({ code: "ERR_SEAL_WRONG_PARENT" });
      const { answer, received } = await unsealWith(tpm, foreign, release, keys);
      expect(answer).toMatchObject({ kind: "failed", command: "TPM2_CreatePrimary", text: "tpm replaced" });
      expect(received).toEqual(NOTHING);
    }
  });
});
