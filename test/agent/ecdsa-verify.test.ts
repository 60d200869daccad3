import { createHash, generateKeyPairSync, sign } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { verifyEcdsaDigest } from "../../agent/broker/ecdsa-verify.ts";
import { brokerKey } from "../../agent/broker/key.ts";
import { sha256Hex } from "../../policy/index.ts";

// Ten vectors for each curve would prove less than OpenSSL's own signatures: they are the other implementation.
const curves = ["P-256", "P-384", "P-521"].map((namedCurve) => {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve });
  const spki = Uint8Array.from(publicKey.export({ format: "der", type: "spki" }));
  const key = brokerKey("key", { spki, id: Uint8Array.of(1), label: "key" }, `sha256:${sha256Hex(spki)}`);
  return { namedCurve, key, privateKey };
});
const hashes = ["sha256", "sha384", "sha512"] as const;

describe.each(curves)("an ECDSA signature over a digest, $namedCurve", ({ key, privateKey }) => {
  const half = key.signatureLength / 2;
  const signed = (hash: string, message: Uint8Array) => ({
    digest: Uint8Array.from(createHash(hash).update(message).digest()),
    signature: Uint8Array.from(sign(hash, message, { key: privateKey, dsaEncoding: "ieee-p1363" })),
  });

  it.each(hashes)(
    "I6: of %s is good when OpenSSL made it, and bad with any bit of it or of the digest changed",
    (hash) => {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 64 }), fc.nat(), (message, position) => {
          const { digest, signature } = signed(hash, message);
          expect(verifyEcdsaDigest(key, digest, signature)).toBe(true);
          const flipped = (bytes: Uint8Array, limit: number) =>
            bytes.map((byte, at) => (at === position % limit ? byte ^ (1 << (position % 8)) : byte));
          expect(verifyEcdsaDigest(key, digest, flipped(signature, signature.length))).toBe(false);
          // What is longer than the curve's order is cut: the bits behind it do not count.
          expect(verifyEcdsaDigest(key, flipped(digest, Math.min(digest.length, half)), signature)).toBe(false);
        }),
        { numRuns: 12 },
      );
    },
  );

  it("I6: is bad with r or s that is 0 or not below the order, of another length, or of another key", () => {
    const { digest, signature } = signed("sha256", Uint8Array.of(1));
    const [r, s] = [signature.slice(0, half), signature.slice(half)];
    const [zero, high] = [new Uint8Array(half), new Uint8Array(half).fill(0xff)];
    const spoilt = [[zero, s], [r, zero], [high, s], [r, high], [r, s, Uint8Array.of(0)], [r], []];
    for (const parts of spoilt) expect(verifyEcdsaDigest(key, digest, Buffer.concat(parts))).toBe(false);
    for (const other of curves)
      if (other.key !== key) expect(verifyEcdsaDigest(other.key, digest, signature)).toBe(false);
  });

  it("I6: over the digest of the message that stands in for the caller's is good too", () => {
    const { digest, signature } = signed("sha256", new Uint8Array());
    expect(verifyEcdsaDigest(key, digest, signature)).toBe(true);
  });
});
