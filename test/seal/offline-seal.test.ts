import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { concatBytes, utf8 } from "../../policy/index.ts";
import { openEkCertificate } from "../../seal/ek-public.ts";
import { SealError } from "../../seal/errors.ts";
import { type OfflineSeal, sealOffline } from "../../seal/offline-seal.ts";
import { verifySealedPackage } from "../../seal/package.ts";
import { isPaddedSize, padSecret } from "../../seal/padding.ts";
import { createSealKeys, LABEL, PIN, type SealKeys, sealFor } from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { readBytes, readEkCertificate, tpmTool, withFiles } from "../support/tpm-tools.ts";

let tpm: SoftwareTpm;
let keys: SealKeys;
let input: Omit<OfflineSeal, "secret">;

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createSealKeys();
  const ekCertificate = await readEkCertificate(tpm, "p384");
  input = { ekCertificate, rootKeyPem: keys.root.spkiPem, label: LABEL, operator: keys.operator };
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

describe("a seal", () => {
  it.each(EKS)(
    "I2: stock tools import it under the $ek EK, and find only the attributes asked for",
    async ({ ek, handle }) => {
      const { objectPublic, duplicate, encryptedSeed } = await verifySealedPackage(
        await sealFor(tpm, ek, keys),
        keys.anchors,
      );
      const sized = (bytes: Uint8Array) => concatBytes(Uint8Array.of(bytes.length >> 8, bytes.length & 0xff), bytes);
      const files = { public: sized(objectPublic), duplicate: sized(duplicate), seed: sized(encryptedSeed) };
      await withFiles(files, async (at) => {
        const parent = ["-C", handle];
        if (ek === "rsa") {
          await tpmTool(tpm, "tpm2_startauthsession", "--policy-session", "-S", at("session"));
          await tpmTool(tpm, "tpm2_policysecret", "-S", at("session"), "-c", "e");
          parent.push("-P", `session:${at("session")}`);
        }
        const blob = ["-u", at("public"), "-i", at("duplicate"), "-s", at("seed"), "-r", at("private")];
        await tpmTool(tpm, "tpm2_import", ...parent, ...blob);
        if (ek === "rsa") await tpmTool(tpm, "tpm2_flushcontext", at("session"));
        expect((await readBytes(at("private"))).length).toBeGreaterThan(100);
        expect(await tpmTool(tpm, "tpm2_print", "-t", "TPM2B_PUBLIC", at("public"))).toMatch(/raw: 0x480/);
      });
    },
  );

  it("I4: the secret is wiped from the caller's buffer, whether it was sealed or not", async () => {
    const good = Uint8Array.from(PIN);
    await sealOffline({ ...input, secret: good });
    const bad = Uint8Array.from(PIN);
    await expect(sealOffline({ ...input, ekCertificate: new Uint8Array(3), secret: bad })).rejects.toBeInstanceOf(
      SealError,
    );
    const unnamed = Uint8Array.from(PIN);
    const label = { ...LABEL, name: "HSM pin" };
    await expect(sealOffline({ ...input, label, secret: unnamed })).rejects.toBeInstanceOf(Error);
    expect([...good, ...bad, ...unnamed].every((byte) => byte === 0)).toBe(true);
  });

  it("I4: neither the secret nor anything that repeats is in the package", async () => {
    const secret = new Uint8Array(64).fill(0x37);
    const packages = await Promise.all([1, 2].map(() => sealOffline({ ...input, secret: Uint8Array.from(secret) })));
    const [first, second] = await Promise.all(packages.map((bytes) => verifySealedPackage(bytes, keys.anchors)));
    if (first === undefined || second === undefined) throw new Error("two packages");
    for (const field of ["objectPublic", "duplicate", "encryptedSeed", "nonce", "ciphertext"] as const)
      expect(first[field], field).not.toEqual(second[field]);
    expect(Buffer.from(first.ciphertext).includes(secret.subarray(0, 8))).toBe(false);
  });

  it("I4: secrets of 1 to 62 bytes are sealed to one size, and sizes then double", async () => {
    const sizeOf = async (length: number) => {
      const sealed = await sealOffline({ ...input, secret: new Uint8Array(length).fill(0x37) });
      return (await verifySealedPackage(sealed, keys.anchors)).ciphertext.length - 16;
    };
    expect(await Promise.all([1, 62, 63, 126, 127, 4096, 32_766].map(sizeOf))).toEqual([
      64, 64, 128, 128, 256, 8192, 32_768,
    ]);
  });

  it("I4: an empty secret and one that is too long are refused without a word about it", async () => {
    for (const length of [0, 32_767, 100_000]) {
      const secret = new Uint8Array(length).fill(0x37);
      await expect(sealOffline({ ...input, secret })).rejects.toMatchObject({ code: "ERR_SEAL_INPUT", exitCode: 2 });
      await expect(sealOffline({ ...input, secret: new Uint8Array(length) })).rejects.not.toThrow(/37|32767/);
    }
  });

  it("I10: a name, kind, serial, time or generation that no reader takes is refused when sealing", async () => {
    for (const change of [
      { generation: 0 },
      { generation: 1.5 },
      { generation: 2 ** 32 },
      { tokenSerial: "" },
      { tokenSerial: "ä" },
      { tokenSerial: null },
      { kind: "file" as const },
      { notAfter: "2027-01-01" },
      { notAfter: "2027-01-01T00:00:00+01:00" },
    ]) {
      const label = { ...LABEL, ...change };
      await expect(sealOffline({ ...input, label, secret: utf8("1") }), JSON.stringify(change)).rejects.toMatchObject({
        code: "ERR_SEALED_MALFORMED",
      });
    }
    for (const name of ["HSM pin", "", "x".repeat(33)])
      await expect(sealOffline({ ...input, label: { ...LABEL, name }, secret: utf8("1") })).rejects.toMatchObject({
        code: "ERR_SEAL_INPUT",
      });
  });
});

describe("padding", () => {
  it("I4: the padded secret is length, secret and zeros, in the smallest size that holds it", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 5000 }), (secret) => {
        const padded = padSecret(secret);
        expect(isPaddedSize(padded.length)).toBe(true);
        expect(padded.length === 64 || padded.length / 2 < secret.length + 2).toBe(true);
        expect((padded[0] ?? 0) * 256 + (padded[1] ?? 0)).toBe(secret.length);
        expect(padded.subarray(2, 2 + secret.length)).toEqual(secret);
        expect(padded.subarray(2 + secret.length).every((byte) => byte === 0)).toBe(true);
      }),
    );
    for (const size of [0, 32, 63, 65, 96, 65_536, 64.5, Number.NaN]) expect(isPaddedSize(size)).toBe(false);
  });
});
