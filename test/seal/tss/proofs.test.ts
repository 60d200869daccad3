import { createPublicKey, verify } from "node:crypto";
import { type Attestation, encodePcrSelection, type PrimaryKey, type TpmObject } from "node-tpm2-tss";
import { describe, expect, test } from "vitest";
import { ekProfiles, ekTemplate } from "../../../attest/index.ts";
import { concatBytes, fromHex, toHex } from "../../../policy/index.ts";
import { attestationKeyTemplate } from "../../../seal/tpm-templates.ts";
import {
  base64url,
  failure,
  fileTpm,
  hash,
  refusal,
  signingTemplate,
  sized,
  softwareKey,
  storageTemplate,
  text,
  u16,
  u32,
} from "./fixture.ts";

const open = fileTpm({ endorsement: "certificates" });
const rsaEk = 0x81010001;
const p384Ek = 0x81010016;
const nonce = hash("sha256", u32(7));

/** Whether TPMT_SIGNATURE (ECDSA, P-256) is the key's over these bytes. Without a TPM. */
function isSigned(key: { publicArea: Uint8Array }, bytes: Uint8Array, signature: Uint8Array): boolean {
  const point = key.publicArea.slice(-68);
  const jwk = { kty: "EC", crv: "P-256", x: base64url(point.slice(2, 34)), y: base64url(point.slice(36)) };
  const publicKey = createPublicKey({ key: jwk, format: "jwk" });
  const raw = concatBytes(signature.slice(6, 38), signature.slice(40));
  return verify("sha256", bytes, { key: publicKey, dsaEncoding: "ieee-p1363" }, raw);
}

/** Checks signature, type and extraData of a TPMS_ATTEST; returns what comes after clockInfo and firmwareVersion. */
function attested(
  key: PrimaryKey,
  qualifiedName: Uint8Array,
  type: number,
  { attest, signature }: Attestation,
): string {
  const head = concatBytes(fromHex("ff544347"), u16(type), sized(qualifiedName), sized(nonce));
  expect(toHex(attest.slice(0, head.length))).toBe(toHex(head));
  expect(isSigned(key, attest, signature)).toBe(true);
  return toHex(attest.slice(head.length + 25));
}

describe("signed statements", () => {
  test("I9: a quote's raw bytes carry the asked extraData and selection", async () => {
    await using tpm = await open();
    await using key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
    const pcrs = [0, 7, 13, 16];
    const selection = [{ bank: "sha384", pcrs }] as const;
    const { qualifiedName } = await tpm.readPublic(key);
    const body = attested(key, qualifiedName, 0x8018, await tpm.quote(key, nonce, selection));
    const values = (await tpm.pcrRead(selection)).get("sha384");
    const digest = hash("sha256", ...pcrs.map((pcr) => values?.get(pcr) ?? u16(0)));
    expect(body).toBe(toHex(concatBytes(encodePcrSelection(selection), sized(digest))));
  });

  test("Certify states Name and qualified Name of the object", async () => {
    await using tpm = await open();
    await using key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
    await using object = await tpm.createPrimary("owner", storageTemplate);
    const { qualifiedName } = await tpm.readPublic(key);
    const body = attested(key, qualifiedName, 0x8017, await tpm.certify(object, key, nonce));
    expect(body).toBe(toHex(concatBytes(sized(object.name), sized((await tpm.readPublic(object)).qualifiedName))));
  });

  test("CertifyCreation states Name and creationHash; a hash or ticket of another object is refused", async () => {
    await using tpm = await open();
    await using key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
    await using object = await tpm.createPrimary("owner", storageTemplate);
    const { qualifiedName } = await tpm.readPublic(key);
    const body = attested(key, qualifiedName, 0x801a, await tpm.certifyCreation(key, object, nonce, object));
    expect(body).toBe(toHex(concatBytes(sized(object.name), sized(object.creationHash))));
    expect(await refusal(tpm.certifyCreation(key, object, nonce, key))).toBe("tpm CertifyCreation 0x4e0");
  });

  test("GetTime states the TPM's time", async () => {
    await using tpm = await open();
    await using key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
    const { qualifiedName } = await tpm.readPublic(key);
    const before = await tpm.readClock();
    const body = attested(key, qualifiedName, 0x8019, await tpm.getTime(key, nonce));
    expect(body.length).toBe(2 * (25 + 8));
    expect(BigInt(`0x${body.slice(0, 16)}`)).toBeGreaterThanOrEqual(before.time);
    expect(body.slice(32, 48)).toBe(toHex(before.raw.slice(16, 24)));
  });

  test("a key that cannot sign is refused by each of them", async () => {
    await using tpm = await open();
    await using key = await tpm.createPrimary("owner", storageTemplate);
    expect(await refusal(tpm.quote(key, nonce, []))).toBe("tpm Quote 0x19c");
    expect(await refusal(tpm.certify(key, key, nonce))).toBe("tpm Certify 0x29c");
    expect(await refusal(tpm.getTime(key, nonce))).toBe("tpm GetTime 0x29c");
    expect(await refusal(tpm.quote(key, new Uint8Array(100), []))).toMatch(/^mu Quote /);
  });
});

describe("signatures", () => {
  test("Sign signs a digest; VerifySignature gives a ticket for it, and for another message none", async () => {
    await using tpm = await open();
    await using key = await tpm.createPrimary("owner", signingTemplate);
    const message = text("message");
    const signature = await tpm.sign(key, hash("sha256", message));
    expect(isSigned(key, message, signature)).toBe(true);
    expect(toHex((await tpm.verifySignature(key, hash("sha256", message), signature)).slice(0, 6))).toBe(
      "802240000001",
    );
    const other = tpm.verifySignature(key, hash("sha256", text("other")), signature);
    expect(await refusal(other)).toBe("tpm VerifySignature 0x2db");
  });

  test("a restricted key signs no digest that the TPM did not make", async () => {
    await using tpm = await open();
    await using key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
    expect(await refusal(tpm.sign(key, hash("sha256", text("forged"))))).toBe("tpm Sign 0x3e0");
  });

  test("a signature made elsewhere is verified; one over something else is refused", async () => {
    await using tpm = await open();
    const { publicArea, sign } = softwareKey();
    await using key = await tpm.loadExternal(publicArea, "owner");
    expect((await tpm.verifySignature(key, hash("sha256", u32(2)), sign(u32(2)))).length).toBeGreaterThan(0);
    const error = await failure(tpm.verifySignature(key, hash("sha256", u32(1)), sign(u32(2))));
    expect(error.rc).toBe(0x2db);
  });
});

describe("endorsement keys and credentials", () => {
  test.each([
    ["RSA-2048", rsaEk, ekProfiles.rsa2048],
    ["P-384", p384Ek, ekProfiles.p384],
  ] as const)("the %s template makes the key at its persistent handle again", async (_, handle, profile) => {
    await using tpm = await open();
    await using persistent = await tpm.trFromTpmPublic(handle);
    await using made = await tpm.createPrimary("endorsement", ekTemplate(profile));
    const { publicArea, name } = await tpm.readPublic(persistent);
    expect(toHex(made.publicArea)).toBe(toHex(publicArea));
    expect(toHex(made.name)).toBe(toHex(name));
    expect(toHex(persistent.name)).toBe(toHex(name));
  });

  test("PolicySecret(endorsement) reaches the L-1 EK's own policy", async () => {
    await using tpm = await open();
    await using session = await tpm.startAuthSession({ kind: "policy" });
    await tpm.policySecret("endorsement", session);
    expect(toHex(await tpm.policyGetDigest(session))).toBe(toHex(ekProfiles.rsa2048.authPolicy));
  });

  test.each([["RSA-2048", rsaEk] as const, ["P-384", p384Ek] as const])(
    "I9: a credential for the %s EK and this AK opens, for another Name it does not",
    async (_, handle) => {
      await using tpm = await open();
      await using key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
      await using ek = await tpm.trFromTpmPublic(handle);
      const credential = await tpm.getRandom(32);
      const activate = async (name: Uint8Array) => {
        const { credentialBlob, encryptedSecret } = await tpm.makeCredential(ek, credential, name);
        await using policy = await tpm.startAuthSession({ kind: "policy" });
        if (handle === rsaEk) await tpm.policySecret("endorsement", policy);
        const sessions = ["password", handle === rsaEk ? policy : "password"] as const;
        return await tpm.activateCredential(key, ek, credentialBlob, encryptedSecret, { sessions });
      };
      expect(await activate(key.name)).toEqual(credential);
      const error = await failure(activate(concatBytes(fromHex("000b"), hash("sha256", key.name))));
      expect({ layer: error.layer, command: error.command }).toEqual({ layer: "tpm", command: "ActivateCredential" });
      expect(await refusal(tpm.makeCredential(ek, new Uint8Array(64), key.name))).toBe("tpm MakeCredential 0x1d5");
    },
  );

  test("an object made offline for the P-384 EK is imported, loads, and has the Name of its public area", async () => {
    await using tpm = await open();
    await using ek = await tpm.trFromTpmPublic(p384Ek);
    const [seed, data] = [hash("sha256", u32(1)), hash("sha256", u32(2))];
    const unique = sized(hash("sha256", seed, data));
    const publicArea = concatBytes(fromHex("0008000b000004400000"), u16(0x10), unique);
    const sensitive = concatBytes(u16(8), u16(0), sized(seed), sized(data));
    const privateArea = await tpm.import(ek, publicArea, sized(sensitive), new Uint8Array(0));
    await using object = await tpm.load(ek, privateArea, publicArea);
    expect(toHex(object.name)).toBe(toHex(concatBytes(fromHex("000b"), hash("sha256", publicArea))));
  });

  test.each([["RSA-2048", rsaEk] as const, ["P-384", p384Ek] as const])(
    "a session salted to the %s EK encrypts and authenticates the response",
    async (_, handle) => {
      await using tpm = await open();
      await using ek: TpmObject = await tpm.trFromTpmPublic(handle);
      await using session = await tpm.startAuthSession({ kind: "hmac", saltKey: ek, encrypt: true, decrypt: false });
      const random = await tpm.getRandom(100, { sessions: [session] });
      expect(new Set(random).size).toBeGreaterThan(20);
    },
  );

  test("an EK certificate's index is read whole, in chunks when it must be", async () => {
    await using tpm = await open();
    await using index = await tpm.trFromTpmPublic(0x01c00002);
    const { dataSize } = await tpm.nvReadPublic(index);
    const whole = await tpm.nvRead(index);
    expect(whole.length).toBe(dataSize);
    expect(await tpm.nvRead(index, { authority: "owner", maxChunk: 100 })).toEqual(whole);
  });
});
