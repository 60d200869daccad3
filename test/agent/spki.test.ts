import { createPublicKey, generateKeyPairSync } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { findServedKeys } from "../../agent/launch/keys.ts";
import { spkiOf } from "../../agent/launch/spki.ts";
import { KEY_FLAGS, type KeyFlag, type ShimKey } from "../../agent/shim-replies.ts";
import { concatBytes, fromHex, type Policy, sha256Hex } from "../../policy/index.ts";

const P256 = fromHex("06082a8648ce3d030107");
const P384 = fromHex("06052b81040022");
const NONE = new Uint8Array();
const ec = generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey;
const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey;
const spki = (key: typeof ec) => new Uint8Array(key.export({ format: "der", type: "spki" }));
const field = (key: typeof ec, name: "x" | "y" | "n" | "e") =>
  new Uint8Array(Buffer.from(key.export({ format: "jwk" })[name] ?? "", "base64url"));
const point = concatBytes(Uint8Array.of(4), field(ec, "x"), field(ec, "y"));
const octetString = concatBytes(Uint8Array.of(4, 65), point);

type PublicParts = Parameters<typeof spkiOf>[0];
const ofEc = (ecPoint: Uint8Array, ecParams = P256): PublicParts => ({
  modulus: NONE,
  exponent: NONE,
  ecParams,
  ecPoint,
});
const ofRsa = (modulus: Uint8Array, exponent: Uint8Array): PublicParts => ({
  ...{ modulus, exponent, ecParams: NONE, ecPoint: NONE },
});

describe("the public key of a token's object", () => {
  test("is the SubjectPublicKeyInfo that OpenSSL has for it, with and without the point's wrapping", () => {
    expect(spkiOf(ofEc(octetString))).toEqual(spki(ec));
    expect(spkiOf(ofEc(point))).toEqual(spki(ec));
  });

  test("of an RSA key has no leading zeros, however many the token writes", () => {
    const zeros = new Uint8Array(3);
    expect(spkiOf(ofRsa(field(rsa, "n"), field(rsa, "e")))).toEqual(spki(rsa));
    expect(spkiOf(ofRsa(concatBytes(zeros, field(rsa, "n")), concatBytes(zeros, field(rsa, "e"))))).toEqual(spki(rsa));
  });

  test.each<[string, PublicParts]>([
    ["of another curve", ofEc(octetString, P384)],
    ["without a curve", ofEc(octetString, NONE)],
    ["off the curve", ofEc(point.map((byte, index) => (index === 64 ? byte ^ 1 : byte)))],
    ["compressed", ofEc(concatBytes(Uint8Array.of(2), field(ec, "x")))],
    ["one byte short", ofEc(point.slice(0, 64))],
    ["one byte long", ofEc(concatBytes(point, Uint8Array.of(0)))],
    ["wrapped as something else", ofEc(concatBytes(Uint8Array.of(3, 65), point))],
    ["that is empty", ofEc(NONE)],
  ])("I6: a point %s is nothing that a policy can name", (_, key) => {
    expect(spkiOf(key)).toBeNull();
  });

  test("I10: any bytes at all give a key or nothing, never a failure", () => {
    const bytes = fc.oneof(fc.uint8Array({ maxLength: 300 }), fc.constantFrom(NONE, P256, point, octetString));
    fc.assert(
      fc.property(bytes, bytes, bytes, bytes, (modulus, exponent, ecParams, ecPoint) => {
        const found = spkiOf({ modulus, exponent, ecParams, ecPoint });
        if (found === null) return;
        const again = createPublicKey({ key: Buffer.from(found), format: "der", type: "spki" });
        expect(new Uint8Array(again.export({ format: "der", type: "spki" }))).toEqual(found);
      }),
      { numRuns: 500 },
    );
  });
});

const GOOD: ReadonlyMap<KeyFlag, boolean> = new Map(
  KEY_FLAGS.map((flag) => [flag, ["sign", "sensitive", "alwaysSensitive", "neverExtractable", "local"].includes(flag)]),
);

function keyWith(change: (flags: Map<KeyFlag, boolean>) => void = () => undefined): ShimKey {
  const flags = new Map(GOOD);
  change(flags);
  const names = { id: Uint8Array.of(1), label: "release" };
  return { ...ofEc(octetString), ...names, handle: 7n, objectClass: "private", keyType: 3n, flags };
}

const held = (...keys: ShimKey[]) => new Map([["hsm", { slotId: 3n, keys }]]);
const policyFor = (does: "sign" | "decrypt" | "unwrap" = "sign") =>
  ({
    keys: { release: { spki: `sha256:${sha256Hex(spki(ec))}`, does, token: "hsm", accepts: [] } },
  }) as unknown as Policy; // nothing else is read

describe("the keys that are served", () => {
  test("are those of the policy that the token holds once, under the policy's names", () => {
    const { keys, reasons } = findServedKeys(policyFor(), held(keyWith()));
    expect(reasons).toEqual([]);
    expect(keys).toMatchObject([
      { name: "release", token: "hsm", slotId: 3n, handle: 7n, does: "sign", spkiSha256: sha256Hex(spki(ec)) },
    ]);
  });

  test.each<[KeyFlag, boolean]>([
    ["sensitive", true],
    ["extractable", false],
    ["alwaysSensitive", true],
    ["neverExtractable", true],
    ["local", true],
    ["sign", true],
  ])("I7: a key whose %s is not %s, or that will not tell, is refused by that name", (flag, expected) => {
    const other = findServedKeys(policyFor(), held(keyWith((flags) => flags.set(flag, !expected))));
    const item = `release ${flag}`;
    const wrong = { code: "key-attributes", item, expected: `${expected}`, got: `${!expected}` };
    expect(other.reasons).toMatchObject([wrong]);
    const silent = findServedKeys(policyFor(), held(keyWith((flags) => flags.delete(flag))));
    expect(silent.reasons).toMatchObject([{ item: `release ${flag}`, got: "unknown" }]);
  });

  test("I7: a key that wants a log-in for each use is refused; of one that does not say it, the standard says that it does not", () => {
    const asking = findServedKeys(policyFor(), held(keyWith((flags) => flags.set("alwaysAuthenticate", true))));
    expect(asking.reasons).toMatchObject([{ code: "key-always-authenticate", item: "release" }]);
    const silent = findServedKeys(policyFor(), held(keyWith((flags) => flags.delete("alwaysAuthenticate"))));
    expect([silent.reasons, silent.keys.length]).toEqual([[], 1]);
  });

  test.each(["decrypt", "unwrap"] as const)("I7: a key that cannot %s is not served for it", (does) => {
    const { reasons } = findServedKeys(policyFor(does), held(keyWith()));
    expect(reasons).toMatchObject([
      { code: "key-attributes", item: `release ${does}`, expected: "true", got: "false" },
    ]);
  });

  test.each([0, 2, 3])("I6: a name that stands for %i objects is refused", (count) => {
    const { keys, reasons } = findServedKeys(policyFor(), held(...Array.from({ length: count }, () => keyWith())));
    expect(keys).toEqual([]);
    expect(reasons).toMatchObject([{ code: "key-unknown", item: "release", got: `${count}` }]);
  });

  test("I6: a key of another token than the policy names is not the one, and one of each is no doubt", () => {
    const other = { slotId: 4n, keys: [keyWith()] };
    const elsewhere = findServedKeys(policyFor(), new Map([...held(), ["other", other]]));
    expect(elsewhere.reasons).toMatchObject([{ code: "key-unknown", item: "release", got: "0" }]);
    const both = findServedKeys(policyFor(), new Map([...held(keyWith()), ["other", other]]));
    expect(both.reasons).toEqual([]);
    expect(both.keys).toMatchObject([{ token: "hsm", slotId: 3n }]);
  });

  test("I6: the token's label and id lend a key no name", () => {
    const other = generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey;
    const impostor = { ...keyWith(), ecPoint: concatBytes(Uint8Array.of(4), field(other, "x"), field(other, "y")) };
    expect(findServedKeys(policyFor(), held(impostor)).reasons).toMatchObject([{ code: "key-unknown", got: "0" }]);
  });
});
