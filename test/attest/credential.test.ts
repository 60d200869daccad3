import { constants, createECDH, createPrivateKey, createPublicKey, privateDecrypt } from "node:crypto";
import { describe, expect, it } from "vitest";
import { agreeOnSeed, makeCredential, wrapCredential } from "../../attest/credential.ts";
import { eccCurve, ekProfiles, ekPublic } from "../../attest/ek-profiles.ts";
import { AttestError } from "../../attest/errors.ts";
import { parseTpmPublic, type TpmPublic } from "../../attest/tpm-structures.ts";
import { fromHex, toHex, utf8 } from "../../policy/index.ts";
import { credentials, encryptedSeed, sharedSeeds } from "../vectors/make-credential.ts";

const base64url = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64url");

/** An ephemeral key that is known in advance. */
async function ephemeralKey(namedCurve: "P-256" | "P-384", d: Uint8Array) {
  const ecdh = createECDH(namedCurve === "P-256" ? "prime256v1" : "secp384r1");
  ecdh.setPrivateKey(d);
  const point = ecdh.getPublicKey();
  const half = (point.length - 1) / 2;
  const publicJwk = {
    kty: "EC",
    crv: namedCurve,
    x: base64url(point.subarray(1, 1 + half)),
    y: base64url(point.subarray(1 + half)),
  };
  const algorithm = { name: "ECDH", namedCurve };
  return {
    publicKey: await crypto.subtle.importKey("jwk", publicJwk, algorithm, true, []),
    privateKey: await crypto.subtle.importKey("jwk", { ...publicJwk, d: base64url(d) }, algorithm, false, [
      "deriveBits",
    ]),
  };
}

function eccOf(publicArea: TpmPublic) {
  if (publicArea.kind !== "ecc") throw new Error("an RSA key");
  return publicArea;
}

describe("TPM2_MakeCredential against published answers", () => {
  it.each(sharedSeeds.map((vector) => [vector.name, vector] as const))(
    "I9: the shared seed of %s is the published one",
    async (_, vector) => {
      const ek = eccOf(parseTpmPublic(fromHex(vector.ek)));
      const [curve, scheme] =
        ek.curve === eccCurve.p256 ? (["P-256", ekProfiles.p256] as const) : (["P-384", ekProfiles.p384] as const);
      const shared = await agreeOnSeed(ek, scheme, vector.label, await ephemeralKey(curve, fromHex(vector.ephemeral)));
      expect(toHex(shared.seed)).toBe(vector.seed);
      expect(toHex(shared.encryptedSecret)).toBe(vector.encryptedSecret);
    },
  );

  it("I9: a whole credential for a P-256 EK, from a known ephemeral key, is the published one", async () => {
    const { akName, secret, ecc } = credentials;
    const ek = eccOf(
      ekPublic(ekProfiles.p256, { kind: "ecc", curve: eccCurve.p256, x: fromHex(ecc.x), y: fromHex(ecc.y) }),
    );
    const shared = await agreeOnSeed(
      ek,
      ekProfiles.p256,
      "IDENTITY",
      await ephemeralKey("P-256", fromHex(ecc.ephemeral)),
    );
    expect(toHex(shared.encryptedSecret)).toBe(ecc.encryptedSecret);
    const blob = await wrapCredential(ekProfiles.p256, shared.seed, fromHex(akName), fromHex(secret));
    expect(toHex(blob)).toBe(ecc.credentialBlob);
  });

  it("I9: the credential blob for an RSA EK, from a known seed, is the published one", async () => {
    const { akName, secret, rsa } = credentials;
    const blob = await wrapCredential(ekProfiles.rsa2048, fromHex(rsa.seed), fromHex(akName), fromHex(secret));
    expect(toHex(blob)).toBe(rsa.credentialBlob);
  });

  it("I9: what opens the published RSA seed opens ours: same label, same hash, with its zero", async () => {
    const key = rsaPrivateKey(fromHex(encryptedSeed.ek), fromHex(encryptedSeed.prime));
    const options = {
      key,
      padding: constants.RSA_PKCS1_OAEP_PADDING,
      oaepHash: "sha256",
      oaepLabel: utf8("IDENTITY\0"),
    };
    expect(toHex(privateDecrypt(options, fromHex(encryptedSeed.encryptedSecret)))).toBe(encryptedSeed.seed);
    const published = parseTpmPublic(fromHex(encryptedSeed.ek));
    if (published.kind !== "rsa") throw new Error("an ECC key");
    const secret = new Uint8Array(32).fill(9);
    const akName = fromHex(credentials.akName);
    const ours = await makeCredential(ekPublic(ekProfiles.rsa2048, published), akName, secret);
    const seed = new Uint8Array(privateDecrypt(options, ours.encryptedSecret));
    expect(seed.length).toBe(32);
    expect(toHex(await wrapCredential(ekProfiles.rsa2048, seed, akName, secret))).toBe(toHex(ours.credentialBlob));
  });
});

describe("TPM2_MakeCredential", () => {
  const [x, y] = [fromHex(credentials.ecc.x), fromHex(credentials.ecc.y)];
  const ek = ekPublic(ekProfiles.p256, { kind: "ecc", curve: eccCurve.p256, x, y });
  const akName = fromHex(credentials.akName);

  it("I9: two credentials for the same secret have nothing in common", async () => {
    const [one, two] = await Promise.all([1, 2].map(() => makeCredential(ek, akName, new Uint8Array(32))));
    expect(one?.encryptedSecret).not.toEqual(two?.encryptedSecret);
    expect(one?.credentialBlob).not.toEqual(two?.credentialBlob);
  });

  it("I9: a P-256 EK takes a secret as long as its Name's hash, and none longer", async () => {
    const { credentialBlob, encryptedSecret } = await makeCredential(ek, akName, new Uint8Array(32));
    expect([credentialBlob.length, encryptedSecret.length]).toEqual([2 + 32 + 2 + 32, 2 * (2 + 32)]);
    await expect(makeCredential(ek, akName, new Uint8Array(33))).rejects.toThrow(TypeError);
  });

  it.each([
    ["that may sign", { ...ek, attributes: ek.attributes | 0x40000 }],
    ["that is not restricted", { ...ek, attributes: ek.attributes & ~0x10000 }],
    ["that could leave its TPM", { ...ek, attributes: ek.attributes & ~0x2 }],
    ["of another policy", { ...ek, authPolicy: new Uint8Array(32) }],
    ["with another cipher", { ...ek, symmetric: null }],
    ["of another Name hash", { ...ek, nameAlg: 0x000c }],
  ])("I9: none is made for a key %s: only the templates known here are storage keys of a TPM", async (_, other) => {
    await expect(makeCredential(other, akName, new Uint8Array(16))).rejects.toThrow(/ek template/);
  });

  it("I10: a point that is not on the curve is a typed error", async () => {
    const off = { ...ek, x: x.with(31, (x[31] ?? 0) ^ 1) } as TpmPublic;
    await expect(makeCredential(off, akName, new Uint8Array(16))).rejects.toThrow(AttestError);
    const short = ekPublic(ekProfiles.p256, { kind: "ecc", curve: eccCurve.p256, x: x.slice(1), y });
    await expect(makeCredential(short, akName, new Uint8Array(16))).rejects.toThrow(AttestError);
  });
});

/** The private key of a TPM's RSA public area from one of its primes. */
function rsaPrivateKey(publicArea: Uint8Array, prime: Uint8Array) {
  const area = parseTpmPublic(publicArea);
  if (area.kind !== "rsa") throw new Error("an ECC key");
  const number = (bytes: Uint8Array) => BigInt(`0x${toHex(bytes)}`);
  const [n, p] = [number(area.modulus), number(prime)];
  const q = n / p;
  const e = 65537n;
  const d = inverse(e, (p - 1n) * (q - 1n));
  const field = (value: bigint, size: number) => base64url(fromHex(value.toString(16).padStart(2 * size, "0")));
  const jwk = {
    ...{ kty: "RSA", n: field(n, 256), e: "AQAB", d: field(d, 256), p: field(p, 128), q: field(q, 128) },
    ...{ dp: field(d % (p - 1n), 128), dq: field(d % (q - 1n), 128), qi: field(inverse(q, p), 128) },
  };
  expect(createPublicKey(createPrivateKey({ key: jwk, format: "jwk" })).asymmetricKeyDetails?.modulusLength).toBe(2048);
  return createPrivateKey({ key: jwk, format: "jwk" });
}

function inverse(a: bigint, modulus: bigint): bigint {
  let [r0, r1, t0, t1] = [modulus, a % modulus, 0n, 1n];
  while (r1 !== 0n) {
    const quotient = r0 / r1;
    [r0, r1, t0, t1] = [r1, r0 - quotient * r1, t1, t0 - quotient * t1];
  }
  return ((t0 % modulus) + modulus) % modulus;
}
