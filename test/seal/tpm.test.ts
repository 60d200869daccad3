import { createPublicKey, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { HANDLE_RANGE, Tpm as Tss } from "node-tpm2-tss";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  AttestError,
  attestationKeyReasons,
  extendPcr,
  makeCredential,
  parseTpmPublic,
  pcrBanks,
} from "../../attest/index.ts";
import { toHex } from "../../policy/index.ts";
import { openTpm } from "../../seal/tpm.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";

const nativeDirectory = join(import.meta.dirname, "..", "..", "build", "native");
const kinds = ["p384", "rsa2048"] as const;
const handles = { p384: 0x81010016, rsa2048: 0x81010001 } as const;

let swtpm: SoftwareTpm;
beforeAll(async () => {
  swtpm = await startSwtpm();
});
afterAll(() => swtpm.stop());

const digests = (fill: number) => ({
  sha256: new Uint8Array(32).fill(fill),
  sha384: new Uint8Array(48).fill(fill),
});

/** A credential for the EK of `kind`, made by the TPM as a verifier would without one. */
async function credentialFor(kind: (typeof kinds)[number], name: Uint8Array, secret: Uint8Array, tcti = swtpm.tcti) {
  await using tss = await Tss.open({ tcti, nativeDirectory });
  await using ek = await tss.trFromTpmPublic(handles[kind]);
  return await tss.makeCredential(ek, secret, name);
}

describe("the Tpm of attest over libtss2", () => {
  test("I3: an extend changes PCR 13 in every active bank as predicted", async () => {
    await using tpm = await openTpm({ tcti: swtpm.tcti });
    expect(await tpm.activeBanks()).toEqual(pcrBanks);
    const read = () =>
      Promise.all(pcrBanks.map(async (bank) => (await tpm.pcrRead(bank, [13])).get(13) ?? new Uint8Array(0)));
    const [old256, old384] = await read();
    await tpm.pcrExtend(13, digests(9));
    const expected = [
      extendPcr("sha256", old256 ?? new Uint8Array(0), digests(9).sha256),
      extendPcr("sha384", old384 ?? new Uint8Array(0), digests(9).sha384),
    ];
    expect((await read()).map(toHex)).toEqual(expected.map(toHex));
  });

  test("I11: machines that lose power after attesting and enrolling leave the TPM out of its lockout", async () => {
    for (let cut = 0; cut < 6; cut++) {
      await using tpm = await openTpm({ tcti: swtpm.tcti });
      const key = await tpm.createAttestationKey();
      const ek = parseTpmPublic((await tpm.endorsementKey("p384")).publicArea);
      const { credentialBlob, encryptedSecret } = await makeCredential(ek, key.name, new Uint8Array(16).fill(cut));
      expect(await tpm.activateCredential(key, credentialBlob, encryptedSecret)).toEqual(new Uint8Array(16).fill(cut));
      expect((await tpm.quote(key, new Uint8Array(32), "sha256", [13])).signature.length).toBeGreaterThan(64);
      await tpm.close();
      await swtpm.restart(); // no TPM2_Shutdown: to the TPM this is a power cut
    }
  });

  test("all quoted PCRs are read in one call", async () => {
    await using tpm = await openTpm({ tcti: swtpm.tcti });
    const indices = [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14];
    expect([...(await tpm.pcrRead("sha384", indices)).keys()].sort((a, b) => a - b)).toEqual(indices);
  });

  test.each([
    ["p256", "0023000b00050472000000100018000b"],
    ["rsa2048", "0001000b00050472000000100014000b"],
  ] as const)(
    "the %s attestation key is the same at every call and after a restart, and is exempt from the dictionary-attack lockout",
    async (kind, beginning) => {
      const names: string[] = [];
      for (let boot = 0; boot < 2; boot++) {
        await using tpm = await openTpm({ tcti: swtpm.tcti });
        for (let call = 0; call < 2; call++) {
          await using key = await tpm.createAttestationKey(kind);
          names.push(toHex(key.name));
          expect(toHex(key.publicArea.slice(0, 16))).toBe(beginning);
        }
        await tpm.close();
        await swtpm.restart();
      }
      expect(new Set(names).size).toBe(1);
    },
  );

  test("I9: the two attestation keys are those that can be enrolled, and are two keys", async () => {
    await using tpm = await openTpm({ tcti: swtpm.tcti });
    await using p256 = await tpm.createAttestationKey();
    await using rsa = await tpm.createAttestationKey("rsa2048");
    const areas = [p256, rsa].map(({ publicArea }) => parseTpmPublic(publicArea));
    expect(areas.map(attestationKeyReasons)).toEqual([[], []]);
    expect(areas.map(({ kind }) => kind)).toEqual(["ecc", "rsa"]);
  });

  test.each([
    ["p256", "0018000b"],
    ["rsa2048", "0014000b"],
  ] as const)("I9: a quote by the %s key carries the asked extraData", async (kind, scheme) => {
    await using tpm = await openTpm({ tcti: swtpm.tcti });
    await using key = await tpm.createAttestationKey(kind);
    const nonce = new Uint8Array(32).fill(0x5a);
    const { attest, signature } = await tpm.quote(key, nonce, "sha256", [0, 13]);
    expect(toHex(attest.slice(42, 76))).toBe(`0020${toHex(nonce)}`);
    expect(toHex(signature.slice(0, 4))).toBe(scheme);
  });

  test("I9: each EK certificate is issued by the TPM's own CA and certifies the EK that the TPM shows", async () => {
    await using tpm = await openTpm({ tcti: swtpm.tcti });
    const certificates = await tpm.ekCertificates();
    expect(certificates.map(({ nvIndex }) => nvIndex)).toEqual([0x01c00002, 0x01c00016]);
    const issuer = new X509Certificate(await readFile(swtpm.caFiles[1] ?? ""));
    for (const [index, kind] of [
      [0, "rsa2048"],
      [1, "p384"],
    ] as const) {
      const certificate = new X509Certificate(certificates[index]?.der ?? new Uint8Array(0));
      expect(certificate.verify(issuer.publicKey)).toBe(true);
      const jwk = createPublicKey(certificate.publicKey.export({ type: "spki", format: "pem" })).export({
        format: "jwk",
      });
      const unique = Buffer.from(jwk.n ?? jwk.y ?? "", "base64url").toString("hex");
      expect(toHex((await tpm.endorsementKey(kind)).publicArea).endsWith(unique)).toBe(true);
    }
  });

  test.each(kinds)(
    "I9: a credential for the %s EK and this AK is activated, and nothing stays in the TPM",
    async (kind) => {
      const secret = new Uint8Array(32).map((_, index) => index);
      const name = await attestationKeyName();
      const { credentialBlob, encryptedSecret } = await credentialFor(kind, name, secret);
      {
        await using tpm = await openTpm({ tcti: swtpm.tcti });
        await using key = await tpm.createAttestationKey();
        expect(await tpm.activateCredential(key, credentialBlob, encryptedSecret, kind)).toEqual(secret);
        // sessions must not pile up: a TPM has three
        for (let again = 0; again < 4; again++)
          await tpm.activateCredential(key, credentialBlob, encryptedSecret, kind);
      }
      await using tss = await Tss.open({ tcti: swtpm.tcti, nativeDirectory });
      expect([
        ...(await tss.handles(HANDLE_RANGE.transient)),
        ...(await tss.handles(HANDLE_RANGE.loadedSession)),
      ]).toEqual([]);
    },
  );

  test("I9: a credential made for another Name is refused, typed", async () => {
    const name = (await attestationKeyName()).map((byte, index) => (index === 33 ? byte ^ 1 : byte));
    const { credentialBlob, encryptedSecret } = await credentialFor("p384", name, new Uint8Array(16));
    await using tpm = await openTpm({ tcti: swtpm.tcti });
    await using key = await tpm.createAttestationKey();
    const activation = tpm.activateCredential(key, credentialBlob, encryptedSecret);
    await expect(activation).rejects.toMatchObject({
      code: "ERR_TPM",
      cause: { command: "ActivateCredential" },
    });
  });

  async function attestationKeyName(): Promise<Uint8Array> {
    await using tpm = await openTpm({ tcti: swtpm.tcti });
    await using key = await tpm.createAttestationKey();
    return key.name;
  }
});

describe("what is missing", () => {
  test("without persistent EKs they are made from their templates, and a credential still opens", async () => {
    await using bare = await startSwtpm({ endorsement: "none" });
    await using tpm = await openTpm({ tcti: bare.tcti });
    expect(await tpm.ekCertificates()).toEqual([]);
    expect((await tpm.endorsementKey("p384")).name.length).toBe(50);
    await using key = await tpm.createAttestationKey();
    const wrong = tpm.activateCredential(key, new Uint8Array(80), new Uint8Array(256), "rsa2048");
    await expect(wrong).rejects.toMatchObject({
      code: "ERR_TPM",
      cause: { command: "ActivateCredential" },
    });
  });

  test("I9: a PCR that the TPM does not have in a bank is an error, never left out", async () => {
    await using narrow = await startSwtpm({
      endorsement: "keys",
      banks: "sha256",
    });
    await using tpm = await openTpm({ tcti: narrow.tcti });
    expect(await tpm.activeBanks()).toEqual(["sha256"]);
    await expect(tpm.pcrRead("sha384", [0, 13])).rejects.toMatchObject({
      code: "ERR_TPM",
      expected: "PCR 0, 13",
    });
    // an index that no selection can name is the caller's mistake
    await expect(tpm.pcrRead("sha256", [24])).rejects.toThrow(TypeError);
  });

  test("an absent TPM or addon is ERR_TPM_UNAVAILABLE, exit code 4", async () => {
    const absent = [{ tcti: "swtpm:path=/nonexistent" }, { tcti: swtpm.tcti, nativeDirectory: "/nonexistent" }];
    for (const location of absent) {
      const error = await openTpm(location).catch((cause: unknown) => cause);
      expect(error).toBeInstanceOf(AttestError);
      expect(error).toMatchObject({ code: "ERR_TPM_UNAVAILABLE", exitCode: 4 });
    }
  });
});
