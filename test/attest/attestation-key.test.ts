import { generateKeyPairSync, sign as signWith } from "node:crypto";
import { beforeAll, describe, expect, it } from "vitest";
import { attestationKeyReasons, verifyAttestationSignature } from "../../attest/attestation-key.ts";
import { parseTpmPublic, parseTpmSignature, type TpmPublic, type TpmSignature } from "../../attest/tpm-structures.ts";
import { concatBytes, utf8 } from "../../policy/index.ts";
import { type SoftKey, softEccKey, softRsaKey } from "../support/evidence-maker.ts";

type EccPublic = Extract<TpmPublic, { kind: "ecc" }>;
type RsaPublic = Extract<TpmPublic, { kind: "rsa" }>;

const attributes = 0x50472;
const common = { nameAlg: 0x000b, attributes, authPolicy: new Uint8Array(), symmetric: null } as const;
const eccKey: EccPublic = {
  ...common,
  ...{ kind: "ecc", scheme: { scheme: 0x0018, hash: 0x000b }, curve: 3 },
  ...{ x: new Uint8Array(32).fill(1), y: new Uint8Array(32).fill(2) },
};
const rsaKey: RsaPublic = {
  ...common,
  ...{ kind: "rsa", scheme: { scheme: 0x0014, hash: 0x000b }, keyBits: 2048, exponent: 0 },
  modulus: new Uint8Array(256).fill(0xc1),
};
const aes = { algorithm: 0x0006, keyBits: 128, mode: 0x0043 };
const reasonsOf = (key: TpmPublic) => attestationKeyReasons(key).map(({ code, item, got }) => [code, item, got]);

describe("the public area of an attestation key", () => {
  it("I9: of P-256 or of RSA 2048 is taken, the exponent written out or not", () => {
    for (const key of [eccKey, rsaKey, { ...rsaKey, exponent: 65537 }]) expect(reasonsOf(key)).toEqual([]);
  });

  it.each<[string, number]>([
    ["fixedTPM", 0x2],
    ["fixedParent", 0x10],
    ["sensitiveDataOrigin", 0x20],
    ["restricted", 0x10000],
    ["sign", 0x40000],
  ])("I9: without %s is refused, alone", (_attribute, bit) => {
    for (const key of [eccKey, rsaKey]) {
      const got = `0x${(attributes & ~bit).toString(16).padStart(8, "0")}`;
      const changed = { ...key, attributes: attributes & ~bit };
      expect(reasonsOf(changed)).toEqual([["ak-unsuitable", "ak objectAttributes", got]]);
    }
  });

  it.each<[string, TpmPublic, string, string]>([
    ["that can decrypt too", { ...eccKey, attributes: attributes | 0x20000 }, "ak decrypt", "set"],
    ["whose Name is by SHA-384", { ...eccKey, nameAlg: 0x000c }, "ak nameAlg", "0x000c"],
    ["with a symmetric algorithm, as of a parent", { ...eccKey, symmetric: aes }, "ak symmetric", "present"],
    ["that signs by SHA-384", { ...eccKey, scheme: { scheme: 0x0018, hash: 0x000c } }, "ak scheme hash", "0x000c"],
    ["on P-256 whose scheme is RSASSA", { ...eccKey, scheme: { scheme: 0x0014, hash: 0x000b } }, "ak scheme", "0x0014"],
    ["of RSA whose scheme is ECDSA", { ...rsaKey, scheme: { scheme: 0x0018, hash: 0x000b } }, "ak scheme", "0x0018"],
    ["on P-384", { ...eccKey, curve: 4 }, "ak curve", "0x0004"],
    ["whose point has a short x", { ...eccKey, x: eccKey.x.slice(1) }, "ak point", "31 and 32 bytes"],
    ["whose point has a long y", { ...eccKey, y: new Uint8Array(33) }, "ak point", "32 and 33 bytes"],
    ["of RSA that says 3072 bits", { ...rsaKey, keyBits: 3072 }, "ak keyBits", "3072"],
    ["of RSA with a modulus of 128 bytes", { ...rsaKey, modulus: new Uint8Array(128) }, "ak modulus", "128 bytes"],
    ["of RSA with exponent 3", { ...rsaKey, exponent: 3 }, "ak exponent", "3"],
  ])("I9: %s is refused, for that alone", (_title, key, item, got) => {
    expect(reasonsOf(key)).toEqual([["ak-unsuitable", item, got]]);
  });

  it("I9: without a scheme, so that its holder chooses one, is refused", () => {
    for (const key of [eccKey, rsaKey])
      expect(reasonsOf({ ...key, scheme: null }).map(([, item]) => item)).toEqual(["ak scheme hash", "ak scheme"]);
  });
});

describe("the signature of an attestation key", () => {
  const message = utf8("a quote");
  interface Signed {
    readonly key: TpmPublic;
    readonly signature: TpmSignature;
  }
  const signed = async (soft: SoftKey): Promise<Signed> => ({
    key: parseTpmPublic(soft.publicArea),
    signature: parseTpmSignature(await soft.sign(message)),
  });
  const verified = (key: TpmPublic, signature: TpmSignature, over = message) =>
    verifyAttestationSignature(key, signature, over);
  let [ecc, rsa] = [] as unknown as [Signed, Signed];
  beforeAll(async () => {
    [ecc, rsa] = [await signed(await softEccKey()), await signed(await softRsaKey())];
  });

  it("I9: verifies over its message and no other", async () => {
    for (const { key, signature } of [ecc, rsa]) {
      expect(await verified(key, signature)).toBe(true);
      expect(await verified(key, signature, utf8("another"))).toBe(false);
    }
  });

  it("I9: that names another hash than SHA-256 does not count, whatever its bytes", async () => {
    for (const { key, signature } of [ecc, rsa])
      for (const hash of [0x0004, 0x000c, 0]) expect(await verified(key, { ...signature, hash })).toBe(false);
  });

  it("I9: of ECDSA counts for no RSA key, nor RSASSA for a key on a curve", async () => {
    expect(await verified(rsa.key, ecc.signature)).toBe(false);
    expect(await verified(ecc.key, rsa.signature)).toBe(false);
  });

  it("I9: by a key that calls its curve another does not count", async () => {
    expect(await verified({ ...(ecc.key as EccPublic), curve: 4 }, ecc.signature)).toBe(false);
  });

  it("I9: by an RSA key of 3072 bits does not count", async () => {
    const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 3072 });
    const modulus = Uint8Array.from(Buffer.from(publicKey.export({ format: "jwk" }).n ?? "", "base64url"));
    const signature = Uint8Array.from(signWith("sha256", message, privateKey));
    expect(modulus).toHaveLength(384);
    expect(await verified({ ...rsaKey, modulus }, { kind: "rsassa", hash: 0x000b, signature })).toBe(false);
  });

  it("I10: with a longer r or s than the curve has does not count, and throws nothing", async () => {
    const { r, s } = ecc.signature as Extract<TpmSignature, { kind: "ecdsa" }>;
    const longer = (bytes: Uint8Array) => concatBytes(new Uint8Array(33 - bytes.length), bytes);
    for (const parts of [
      { r: longer(r), s },
      { r, s: longer(s) },
    ])
      expect(await verified(ecc.key, { kind: "ecdsa", hash: 0x000b, ...parts })).toBe(false);
  });
});
