import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Release, sha256, utf8 } from "../../policy/index.ts";
import { SealError } from "../../seal/errors.ts";
import type { SealedPackage } from "../../seal/package.ts";
import { signDelegation } from "../../seal/release.ts";
import { unsealRequest } from "../../seal/unseal.ts";
import { parseUnsealAnswer } from "../../seal/unseal-answer.ts";
import {
  bootInto,
  createSealKeys,
  DELIVERED,
  extendAgentPcr,
  LAUNCH,
  makeRelease,
  openSealed,
  releaseDraft,
  type SealKeys,
  tpmTool,
  tryUnseal,
  unsealWith,
  withFiles,
} from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { openInterposer } from "../support/tpm-interposer.ts";

let tpm: SoftwareTpm;
let keys: SealKeys;
let release: Release;
let sealed: SealedPackage;
let sealedRsa: SealedPackage;

const CAP = {
  kind: "cap",
  name: "serving",
  sha256: sha256(new Uint8Array()),
} as const;
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
  release = await makeRelease(keys);
  sealed = await openSealed(tpm, "p384", keys);
  sealedRsa = await openSealed(tpm, "rsa", keys);
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
  it.each(["p384", "rsa"] as const)("I2: under the %s EK the PIN, and only the PIN, reaches the sink", async (ek) => {
    const { answer, received } = await unsealWith(tpm, ek === "rsa" ? sealedRsa : sealed, release, keys);
    expect(answer).toEqual({ kind: "released", ms: expect.any(Number) });
    expect(received).toEqual([DELIVERED]);
  });

  it("I2: every sink receives the PIN", async () => {
    const { received } = await unsealWith(tpm, sealed, release, keys, {
      sinks: 3,
    });
    expect(received).toEqual([DELIVERED, DELIVERED, DELIVERED]);
  });

  it("I11: without persistent EKs the same keys are made from their templates", async () => {
    await using bare = await startSwtpm();
    for (const handle of ["0x81010001", "0x81010016"])
      await tpmTool(bare, "tpm2_evictcontrol", "-C", "p", "-c", handle);
    expect((await tpmTool(bare, "tpm2_getcap", "handles-persistent")).trim()).toBe("");
    await bootInto(bare);
    for (const ek of ["p384", "rsa"] as const) {
      const { answer, received } = await unsealWith(bare, await openSealed(bare, ek, keys), release, keys);
      expect(answer.kind).toBe("released");
      expect(received).toEqual([DELIVERED]);
    }
    expect((await tpmTool(bare, "tpm2_getcap", "handles-transient")).trim()).toBe("");
  });

  it("I2: RSA release and root keys authorise as well", async () => {
    const rsaKeys = await createSealKeys("rsa2048");
    const rsaSealed = await openSealed(tpm, "p384", rsaKeys);
    const { received } = await unsealWith(tpm, rsaSealed, await makeRelease(rsaKeys), rsaKeys);
    expect(received).toEqual([DELIVERED]);
  });

  it("I2: a release key that rotates under the same root opens the old seal", async () => {
    const other = await createSealKeys();
    const rotated = await makeRelease({
      ...keys,
      releaseKey: other.releaseKey,
    });
    const { received } = await unsealWith(tpm, sealed, rotated, keys);
    expect(received).toEqual([DELIVERED]);
  });

  it("I4: the PIN is not readable on the way from the TPM", async () => {
    await using interposer = await openInterposer(tpm);
    const { received } = await unsealWith(tpm, sealed, release, keys, {
      tcti: interposer.tcti,
    });
    expect(received).toEqual([DELIVERED]);
    const traffic = Buffer.concat(interposer.traffic);
    expect(traffic.length).toBeGreaterThan(1000);
    expect(traffic.includes(DELIVERED.subarray(1))).toBe(false);
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
    const { answer, received } = await unsealWith(tpm, sealedRsa, release, keys, { tcti: interposer.tcti });
    expect(rewritten).toBe(1);
    expect(interposer.commands).toContain(TPM2_CREATE_PRIMARY);
    // The key is made again from its template, and that answer is the genuine one.
    expect(answer.kind).toBe("released");
    expect(received).toEqual([DELIVERED]);
  });

  it("I2: a PCR that moves between policy and unseal only costs another session", async () => {
    await using interposer = await openInterposer(tpm, {
      extendBeforeUnseal: 2,
    });
    const { answer, received } = await unsealWith(tpm, sealed, release, keys, {
      tcti: interposer.tcti,
    });
    expect(answer.kind).toBe("released");
    expect(received).toEqual([DELIVERED]);
  });

  it("I10: a PCR that never stops moving ends in the TPM's refusal after eight sessions", async () => {
    await using interposer = await openInterposer(tpm, {
      extendBeforeUnseal: 100,
    });
    const { answer, received } = await unsealWith(tpm, sealed, release, keys, {
      tcti: interposer.tcti,
    });
    expect(answer).toEqual({
      kind: "refused",
      answers: [{ command: "TPM2_Unseal", rc: "0x00000128", text: expect.any(String) }],
    });
    expect(received).toEqual(NOTHING);
    expect(interposer.unseals).toBe(8);
  });

  it.each(["p384", "rsa"] as const)(
    "I11: a TPM in dictionary-attack lockout still unseals under the %s EK",
    async (ek) => {
      await lockOut();
      expect(await tpmTool(tpm, "tpm2_getcap", "properties-variable")).toMatch(/inLockout: +1/);
      const { answer } = await unsealWith(tpm, ek === "rsa" ? sealedRsa : sealed, release, keys);
      await tpmTool(tpm, "tpm2_dictionarylockout", "-c");
      expect(answer.kind).toBe("released");
    },
  );

  it("I2: with --discard a TPM that would release writes nothing", async () => {
    const { answer, received } = await unsealWith(tpm, sealed, release, keys, {
      discard: true,
    });
    expect(answer).toEqual({ kind: "discarded" });
    expect(received).toEqual(NOTHING);
    const request = unsealRequest(sealed, release, keys.anchors);
    expect((await tryUnseal({ tcti: tpm.tcti, request, discard: true, sinks: 0 })).answer).toEqual({
      kind: "discarded",
    });
  });
});

describe("a launch that no release describes", () => {
  it("I2: a changed measurement is refused by the TPM itself", async () => {
    await bootInto(tpm, [
      ...LAUNCH.slice(0, 1),
      {
        kind: "library",
        name: "/usr/lib/evil.so",
        sha256: sha256(utf8("evil")),
      },
    ]);
    for (const discard of [false, true]) {
      const { answer, received } = await unsealWith(tpm, sealed, release, keys, { discard });
      expect(answer).toEqual(MEASUREMENT_REFUSED);
      expect(received).toEqual(NOTHING);
    }
  });

  it("I2: another boot PCR is refused", async () => {
    await tpmTool(tpm, "tpm2_pcrextend", `11:sha256=${"11".repeat(32)}`);
    expect((await unsealWith(tpm, sealed, release, keys)).answer).toEqual(MEASUREMENT_REFUSED);
  });

  it("I3: after the cap nothing unseals, though it did before", async () => {
    expect((await unsealWith(tpm, sealed, release, keys)).answer.kind).toBe("released");
    await extendAgentPcr(tpm, [CAP]);
    for (const each of [sealed, sealedRsa]) {
      const { answer, received } = await unsealWith(tpm, each, release, keys);
      expect(answer).toEqual(MEASUREMENT_REFUSED);
      expect(received).toEqual(NOTHING);
    }
  });

  it("I11: failing fifty times leaves no session and no object in the TPM", async () => {
    await extendAgentPcr(tpm, [CAP]);
    for (let round = 0; round < 25; round++) {
      for (const each of [sealed, sealedRsa])
        expect((await unsealWith(tpm, each, release, keys)).answer.kind).toBe("refused");
    }
    for (const handles of ["handles-transient", "handles-loaded-session", "handles-saved-session"]) {
      expect((await tpmTool(tpm, "tpm2_getcap", handles)).trim()).toBe("");
    }
  });
});

describe("what is not for this machine", () => {
  it("I2: a package for another TPM is refused", async () => {
    await using other = await startSwtpm();
    for (const ek of ["p384", "rsa"] as const) {
      const { answer, received } = await unsealWith(tpm, await openSealed(other, ek, keys), release, keys);
      expect(answer).toMatchObject({
        kind: "failed",
        command: "TPM2_CreatePrimary",
        text: "tpm replaced",
      });
      expect(received).toEqual(NOTHING);
    }
  });

  it("I2: a release that another root delegated is refused", async () => {
    const stranger = await createSealKeys();
    const foreign = await makeRelease(stranger);
    const asOurs = await unsealWith(tpm, sealed, foreign, keys);
    expect(asOurs.answer).toMatchObject({
      kind: "refused",
      answers: [{ command: "TPM2_VerifySignature", rc: "0x000002db" }],
    });
    const asTheirs = await unsealWith(tpm, sealed, foreign, stranger);
    expect(asTheirs.answer).toMatchObject({
      kind: "refused",
      answers: [{ command: "TPM2_Unseal", rc: "0x0000099d" }],
    });
    expect([...asOurs.received, ...asTheirs.received]).toEqual([...NOTHING, ...NOTHING]);
  });

  it("I2: a release key that no root delegated is refused", async () => {
    const stranger = await createSealKeys();
    const forged = {
      ...(await makeRelease(stranger)),
      delegation: await signDelegation(stranger.root, keys.releaseKey.spkiPem),
    };
    const { answer, received } = await unsealWith(tpm, sealed, forged, keys);
    expect(answer.kind).toBe("refused");
    expect(received).toEqual(NOTHING);
  });

  it("I2: a release for another launch is refused", async () => {
    const other = await makeRelease(
      keys,
      releaseDraft([...LAUNCH, { kind: "file", name: "/etc/x", sha256: sha256(utf8("x")) }]),
    );
    expect((await unsealWith(tpm, sealed, other, keys)).answer).toEqual(MEASUREMENT_REFUSED);
  });

  it("I10: damage anywhere in the package or in the signatures ends in a refusal or a failure, never in a PIN", async () => {
    const flip = (bytes: Uint8Array, index: number) => bytes.map((byte, at) => (at === index ? byte ^ 1 : byte));
    const last = (bytes: Uint8Array) => bytes.length - 1;
    const damaged: SealedPackage[] = [sealed, sealedRsa].flatMap((each) => [
      {
        ...each,
        objectPublic: flip(each.objectPublic, last(each.objectPublic)),
      },
      { ...each, objectPublic: flip(each.objectPublic, 12) },
      { ...each, duplicate: flip(each.duplicate, 3) },
      { ...each, duplicate: flip(each.duplicate, last(each.duplicate)) },
      {
        ...each,
        encryptedSeed: flip(each.encryptedSeed, last(each.encryptedSeed)),
      },
    ]);
    for (const each of damaged) {
      const { answer, received } = await unsealWith(tpm, each, release, keys);
      expect(answer).toMatchObject({ kind: "failed", command: "TPM2_Import" });
      expect(received).toEqual(NOTHING);
    }
    for (const field of ["tpmPolicy", "delegation"] as const) {
      const signature = Buffer.from(release[field].signature, "base64");
      const broken = {
        ...release,
        [field]: {
          ...release[field],
          signature: Buffer.from(flip(signature, 40)).toString("base64"),
        },
      };
      const { answer, received } = await unsealWith(tpm, sealed, broken, keys);
      expect(answer).toMatchObject({
        kind: "refused",
        answers: [{ command: "TPM2_VerifySignature", rc: "0x000002db" }],
      });
      expect(received).toEqual(NOTHING);
    }
  });
});

describe("the unsealer's request and answer", () => {
  const NO_TPM = "swtpm:path=/nonexistent";

  it("I10: a good request without a TPM fails as environment, not as request", async () => {
    const request = unsealRequest(sealed, release, keys.anchors);
    const { answer } = await tryUnseal({ tcti: NO_TPM, request });
    expect(answer).toMatchObject({ kind: "failed", command: "TCTI" });
  });

  it("I10: every truncation and every extension of a request is refused before the TPM is touched", async () => {
    const request = unsealRequest(sealed, release, keys.anchors);
    const cuts = [0, 3, 4, 8, 9, 58, 62, 64, 200, 400, request.length - 1].map((length) => request.slice(0, length));
    for (const bytes of [...cuts, Uint8Array.of(...request, 0), new Uint8Array(20_000)]) {
      expect((await tryUnseal({ tcti: NO_TPM, request: bytes })).answer).toMatchObject({
        kind: "failed",
        command: "request",
      });
    }
  });

  it("I10: a request with mutated bytes ends in a typed answer", async () => {
    const request = unsealRequest(sealed, release, keys.anchors);
    const mutation = fc.array(fc.tuple(fc.nat(request.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(mutation, async (changes) => {
        const bytes = Uint8Array.from(request);
        for (const [index, value] of changes) bytes[index] = value;
        const { answer, received } = await tryUnseal({
          tcti: NO_TPM,
          request: bytes,
        });
        expect(answer.kind).toBe("failed");
        expect(received).toEqual(NOTHING);
      }),
      { numRuns: 40 },
    );
  });

  it("I2: an object with userWithAuth is refused by the unsealer too", async () => {
    const objectPublic = sealed.objectPublic.map((byte, index) => (index === 7 ? 0xc0 : byte));
    const { answer } = await tryUnseal({
      tcti: tpm.tcti,
      request: unsealRequest({ ...sealed, objectPublic }, release, keys.anchors),
    });
    expect(answer).toMatchObject({
      kind: "failed",
      command: "request",
      text: "objectPublic",
    });
  });

  it("I4: fewer sinks than the request names are refused", async () => {
    const request = unsealRequest(sealed, release, keys.anchors, 2);
    expect((await tryUnseal({ tcti: tpm.tcti, request, sinks: 1 })).answer).toMatchObject({
      kind: "failed",
      text: "sinks",
    });
  });

  it("I10: any other line from the unsealer is a typed error that does not quote it", () => {
    const lines = [
      "",
      "{}",
      "\n",
      '{"kind":"released","ms":-1}\n',
      '{"kind":"released","ms":1,"pin":"1234"}\n',
      '{"kind":"discarded"}\n\n',
      '{"kind":"refused","answers":[]}\n',
    ];
    for (const line of lines) expect(() => parseUnsealAnswer(utf8(line))).toThrow(SealError);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(() => parseUnsealAnswer(bytes)).toThrow(SealError);
      }),
    );
    expect(parseUnsealAnswer(utf8('{"kind":"released","ms":3}\n'))).toEqual({
      kind: "released",
      ms: 3,
    });
  });
});
