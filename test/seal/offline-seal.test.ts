import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  AGENT_PCR,
  concatBytes,
  encodeVerificationKeyPublic,
  fromHex,
  measureDelegation,
  measureKeyName,
  measureObjectPolicy,
  measurePcrDigest,
  measurePolicy,
  parseEnvelope,
  RELEASE_POLICY_REF,
  ROOT_POLICY_REF,
  releasePolicySteps,
  SEAL_PCRS,
  signEnvelope,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { openEkCertificate } from "../../seal/ek-public.ts";
import { SealError } from "../../seal/errors.ts";
import { encodeImportBlob } from "../../seal/import-blob.ts";
import { createSigningKey } from "../../seal/keys.ts";
import { sealOffline } from "../../seal/offline-seal.ts";
import {
  encodeSealedPackage,
  parseSealedPackage,
  SEALED_TYPE,
  signSealedPackage,
  verifySealedPackage,
} from "../../seal/package.ts";
import {
  createSealKeys,
  PIN,
  readBytes,
  readEkCertificate,
  type SealKeys,
  sealFor,
  tpmTool,
  withFiles,
} from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";

let tpm: SoftwareTpm;
let keys: SealKeys;

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createSealKeys();
});
afterAll(() => tpm?.stop());

const EKS = [
  { ek: "rsa", handle: "0x81010001" },
  { ek: "p384", handle: "0x81010016" },
] as const;

describe("the endorsement key", () => {
  it.each(EKS)("I2: the $ek EK rebuilt from its certificate is byte for byte the TPM's", async ({ ek, handle }) => {
    const rebuilt = openEkCertificate(await readEkCertificate(tpm, ek));
    await withFiles({}, async (at) => {
      await tpmTool(tpm, "tpm2_readpublic", "-c", handle, "-f", "tss", "-o", at("public"), "-n", at("name"));
      expect(rebuilt.tpmtPublic).toEqual((await readBytes(at("public"))).slice(2));
      expect(rebuilt.name).toEqual(await readBytes(at("name")));
    });
  });

  it("I10: anything but a certificate of an EK is a typed error", async () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        expect(() => openEkCertificate(bytes)).toThrow(SealError);
      }),
      { numRuns: 50 },
    );
  });
});

describe("policy digests", () => {
  /** Runs the tools in one trial session and returns its policy digest. */
  async function trialDigest(steps: (session: string, out: string) => Promise<unknown>): Promise<Uint8Array> {
    return withFiles({}, async (at) => {
      await tpmTool(tpm, "tpm2_startauthsession", "-S", at("session"));
      await steps(at("session"), at("digest"));
      await tpmTool(tpm, "tpm2_flushcontext", at("session"));
      return readBytes(at("digest"));
    });
  }

  it("I2: what a release approves is what the TPM's trial session reaches", async () => {
    await tpmTool(tpm, "tpm2_pcrextend", `${AGENT_PCR}:sha256=${"a5".repeat(32)}`, `9:sha256=${"99".repeat(32)}`);
    await withFiles({}, async (at) => {
      await tpmTool(tpm, "tpm2_pcrread", `sha256:${SEAL_PCRS.join()}`, "-o", at("pcrs"));
      const values = await readBytes(at("pcrs"));
      const pcrs = new Map(
        SEAL_PCRS.map((index, order) => [index, values.slice(32 * order, 32 * order + 32)]).toReversed() as [
          number,
          Uint8Array,
        ][],
      );
      const digest = await trialDigest(async (session, out) => {
        await tpmTool(tpm, "tpm2_policypcr", "-S", session, "-l", `sha256:${SEAL_PCRS.join()}`);
        await tpmTool(tpm, "tpm2_policycommandcode", "-S", session, "-L", out, "TPM2_CC_Unseal");
      });
      expect(measurePolicy(releasePolicySteps(pcrs))).toEqual(digest);
      expect(measurePolicy(releasePolicySteps(pcrs).toReversed())).not.toEqual(digest);
      expect(measurePcrDigest(pcrs)).toHaveLength(32);
    });
  });

  it.each(["p256", "rsa2048"] as const)(
    "I2: Names of %s keys and the digests of both approvals are the TPM's",
    async (kind) => {
      const { key } = await createSigningKey(kind);
      const area = encodeVerificationKeyPublic(key.spkiPem);
      const sized = concatBytes(Uint8Array.of(area.length >> 8, area.length & 0xff), area);
      await withFiles({ public: sized, approved: new Uint8Array(32) }, async (at) => {
        await tpmTool(tpm, "tpm2_loadexternal", "-C", "o", "-u", at("public"), "-c", at("context"), "-n", at("name"));
        await tpmTool(tpm, "tpm2_flushcontext", "-t");
        expect(measureKeyName(key.spkiPem)).toEqual(await readBytes(at("name")));
        const authorize = (ref: Uint8Array) =>
          trialDigest((session, out) =>
            tpmTool(
              tpm,
              "tpm2_policyauthorize",
              "-S",
              session,
              "-L",
              out,
              "-i",
              at("approved"),
              "-q",
              toHex(ref),
              "-n",
              at("name"),
            ),
          );
        expect(measureDelegation(key.spkiPem)).toEqual(await authorize(RELEASE_POLICY_REF));
        expect(measureObjectPolicy(key.spkiPem)).toEqual(await authorize(ROOT_POLICY_REF));
      });
    },
  );
});

describe("a seal", () => {
  it.each(EKS)(
    "I2: stock tools import it under the $ek EK, and find only the attributes asked for",
    async ({ ek, handle }) => {
      const { objectPublic, duplicate, encryptedSeed } = await verifySealedPackage(
        await sealFor(tpm, ek, keys),
        keys.anchors,
      );
      const sized = (bytes: Uint8Array) => concatBytes(Uint8Array.of(bytes.length >> 8, bytes.length & 0xff), bytes);
      const files = {
        public: sized(objectPublic),
        duplicate: sized(duplicate),
        seed: sized(encryptedSeed),
      };
      await withFiles(files, async (at) => {
        const parent = ["-C", handle];
        if (ek === "rsa") {
          await tpmTool(tpm, "tpm2_startauthsession", "--policy-session", "-S", at("session"));
          await tpmTool(tpm, "tpm2_policysecret", "-S", at("session"), "-c", "e");
          parent.push("-P", `session:${at("session")}`);
        }
        await tpmTool(
          tpm,
          "tpm2_import",
          ...parent,
          "-u",
          at("public"),
          "-i",
          at("duplicate"),
          "-s",
          at("seed"),
          "-r",
          at("private"),
        );
        if (ek === "rsa") await tpmTool(tpm, "tpm2_flushcontext", at("session"));
        expect((await readBytes(at("private"))).length).toBeGreaterThan(100);
        expect(await tpmTool(tpm, "tpm2_print", "-t", "TPM2B_PUBLIC", at("public"))).toMatch(/raw: 0x480/);
      });
    },
  );

  it("I4: the PIN is wiped from the caller's buffer, whether it was sealed or not", async () => {
    const certificate = await readEkCertificate(tpm, "p384");
    const input = {
      rootKeyPem: keys.root.spkiPem,
      name: "hsm-pin",
      generation: 1,
      tokenSerial: "1",
      operator: keys.operator,
    };
    const good = Uint8Array.from(PIN);
    await sealOffline({ ...input, ekCertificate: certificate, pin: good });
    const bad = Uint8Array.from(PIN);
    await expect(sealOffline({ ...input, ekCertificate: new Uint8Array(3), pin: bad })).rejects.toBeInstanceOf(
      SealError,
    );
    expect([...good, ...bad].every((byte) => byte === 0)).toBe(true);
  });

  it("I4: a PIN of 1 to 63 bytes is sealed to one size, any other is refused without a word about it", async () => {
    const ekCertificate = await readEkCertificate(tpm, "p384");
    const input = {
      ekCertificate,
      rootKeyPem: keys.root.spkiPem,
      name: "hsm-pin",
      generation: 1,
      tokenSerial: "1",
      operator: keys.operator,
    };
    const sizes = await Promise.all(
      [1, 63].map(
        async (length) =>
          (
            await sealOffline({
              ...input,
              pin: new Uint8Array(length).fill(0x37),
            })
          ).length,
      ),
    );
    expect(new Set(sizes).size).toBe(1);
    for (const length of [0, 64, 1000]) {
      await expect(sealOffline({ ...input, pin: new Uint8Array(length) })).rejects.toMatchObject({
        code: "ERR_SEAL_INPUT",
        exitCode: 2,
      });
    }
  });

  it("I10: a name, serial or generation that no reader takes is refused when sealing", async () => {
    const ekCertificate = await readEkCertificate(tpm, "p384");
    const input = {
      ekCertificate,
      rootKeyPem: keys.root.spkiPem,
      name: "hsm-pin",
      generation: 1,
      tokenSerial: "1",
      operator: keys.operator,
    };
    for (const change of [
      { name: "HSM pin" },
      { name: "" },
      { generation: 0 },
      { generation: 1.5 },
      { tokenSerial: "" },
      { tokenSerial: "ä" },
    ]) {
      await expect(sealOffline({ ...input, ...change, pin: utf8("1") })).rejects.toMatchObject({
        code: "ERR_SEALED_MALFORMED",
      });
    }
  });
});

describe("a sealed package", () => {
  it("I2: what the operator signed is read back, under both EKs", async () => {
    for (const { ek } of EKS) {
      const bytes = await sealFor(tpm, ek, keys);
      const sealed = await verifySealedPackage(bytes, keys.anchors);
      expect(sealed).toMatchObject({
        version: 1,
        name: "hsm-pin",
        generation: 1,
        tokenSerial: "0123456789abcdef",
      });
      expect(encodeSealedPackage(sealed)).toEqual(parseEnvelope(bytes).payload);
    }
  });

  it("I2: a package that a stranger signed is refused", async () => {
    const stranger = await createSealKeys();
    const bytes = await sealFor(tpm, "p384", {
      ...keys,
      operator: stranger.operator,
    });
    await expect(verifySealedPackage(bytes, keys.anchors)).rejects.toMatchObject({ code: "ERR_ENVELOPE_SIGNATURE" });
  });

  it("I2: a package sealed to another release root is refused", async () => {
    const stranger = await createSealKeys();
    const bytes = await sealFor(tpm, "p384", {
      ...stranger,
      operator: keys.operator,
    });
    await expect(verifySealedPackage(bytes, keys.anchors)).rejects.toThrow(/authPolicy/);
  });

  it.each([0x4c0, 0x400, 0x080, 0x482, 0x490, 0x492, 0xc80, 0])(
    "I2: an object with attributes %i is refused before the TPM sees it",
    async (attributes) => {
      const ek = openEkCertificate(await readEkCertificate(tpm, "p384"));
      const blob = encodeImportBlob(ek, measureObjectPolicy(keys.root.spkiPem), new Uint8Array(64), attributes);
      const head = {
        version: 1,
        name: "hsm-pin",
        generation: 1,
        tokenSerial: "1",
        ekName: ek.name,
        policyRef: ROOT_POLICY_REF,
      } as const;
      const bytes = await signSealedPackage({ ...head, ...blob }, keys.operator);
      await expect(verifySealedPackage(bytes, keys.anchors)).rejects.toMatchObject({
        code: "ERR_SEALED_MALFORMED",
        exitCode: 3,
      });
      await expect(verifySealedPackage(bytes, keys.anchors)).rejects.toThrow(/objectAttributes: expected 0x00000480/);
    },
  );

  it("I10: a package whose parts have other sizes, types or a foreign policyRef is refused", async () => {
    const sealed = await verifySealedPackage(await sealFor(tpm, "p384", keys), keys.anchors);
    const flipAt = (bytes: Uint8Array, at: number) => bytes.map((byte, index) => (index === at ? byte ^ 1 : byte));
    const changes = [
      { objectPublic: flipAt(sealed.objectPublic, 1) },
      { objectPublic: flipAt(sealed.objectPublic, 3) },
      { objectPublic: flipAt(sealed.objectPublic, 11) },
      { objectPublic: flipAt(sealed.objectPublic, 43) },
      { objectPublic: concatBytes(sealed.objectPublic, new Uint8Array(1)) },
      { objectPublic: sealed.objectPublic.slice(0, -1) },
      { duplicate: sealed.duplicate.slice(1) },
      { encryptedSeed: new Uint8Array(256) },
      { ekName: concatBytes(fromHex("000b"), new Uint8Array(32)) },
      { ekName: new Uint8Array(50) },
      { policyRef: RELEASE_POLICY_REF },
    ];
    for (const change of changes) {
      expect(() => parseSealedPackage(encodeSealedPackage({ ...sealed, ...change }), keys.root.spkiPem)).toThrow(
        SealError,
      );
    }
  });

  it("I10: random and mutated documents end in a typed error or in the same package", async () => {
    const { payload } = parseEnvelope(await sealFor(tpm, "p384", keys));
    const mutated = fc
      .tuple(fc.nat(payload.length - 1), fc.nat(255))
      .map(([at, to]) => payload.map((byte, index) => (index === at ? to : byte)));
    fc.assert(
      fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 300 })), (input) => {
        try {
          expect(encodeSealedPackage(parseSealedPackage(input, keys.root.spkiPem))).toEqual(input);
        } catch (error) {
          expect(error).toBeInstanceOf(SealError);
        }
      }),
      { numRuns: 500 },
    );
    const otherType = await signEnvelope(`${SEALED_TYPE}x`, payload, keys.operator);
    await expect(verifySealedPackage(otherType, keys.anchors)).rejects.toMatchObject({
      code: "ERR_ENVELOPE_SIGNATURE",
    });
  });
});
