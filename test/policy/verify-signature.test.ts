import { generateKeyPairSync, type KeyObject, sign as nodeSign } from "node:crypto";
import { createContext, runInContext } from "node:vm";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { concatBytes, fromHex, utf8 } from "../../policy/bytes.ts";
import { importVerificationKey, parseVerificationKey } from "../../policy/keys.ts";
import {
  openSignatures,
  type Signatures,
  signatures,
  type VerificationKey,
  webSignatures,
} from "../../policy/verify-signature.ts";

const native = openSignatures(globalThis as Parameters<typeof openSignatures>[0]);
const ORDER = fromHex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
const ZERO = new Uint8Array(32);
const MESSAGE = utf8("what was signed");

interface Pair {
  readonly key: VerificationKey;
  readonly sign: (data: Uint8Array) => Uint8Array;
}

function pairOf({ publicKey, privateKey }: { publicKey: KeyObject; privateKey: KeyObject }): Pair {
  const sign = (data: Uint8Array) =>
    Uint8Array.from(nodeSign("sha256", data, { key: privateKey, dsaEncoding: "ieee-p1363" }));
  return { key: parseVerificationKey(publicKey.export({ format: "pem", type: "spki" }).toString()), sign };
}

const p256 = pairOf(generateKeyPairSync("ec", { namedCurve: "P-256" }));
const rsa = pairOf(generateKeyPairSync("rsa", { modulusLength: 2048 }));
const pairs = { p256, rsa2048: rsa };

/** "no key" where the import refuses. */
async function answer(by: Signatures, key: VerificationKey, data: Uint8Array, signature: Uint8Array) {
  return (await by.importKey(key))?.verify(data, signature) ?? "no key";
}

async function bothAnswer(key: VerificationKey, signature: Uint8Array, data = MESSAGE): Promise<boolean | "no key"> {
  const [web, node] = await Promise.all([
    answer(webSignatures, key, data, signature),
    answer(native, key, data, signature),
  ]);
  expect(node).toBe(web);
  return node;
}

function flipped(bytes: Uint8Array, at: number): Uint8Array {
  return bytes.map((byte, index) => (index === at ? byte ^ 1 : byte));
}

const good = p256.sign(MESSAGE);
const [r, s] = [good.subarray(0, 32), good.subarray(32)];
const rsaGood = rsa.sign(MESSAGE);
const { x, y } = p256.key as Extract<VerificationKey, { kind: "p256" }>;
const { modulus } = rsa.key as Extract<VerificationKey, { kind: "rsa2048" }>;

describe("verifying a signature", () => {
  it.each([
    ["r of 0", concatBytes(ZERO, s)],
    ["s of 0", concatBytes(r, ZERO)],
    ["r and s of 0", concatBytes(ZERO, ZERO)],
    ["r of the order", concatBytes(ORDER, s)],
    ["s of the order", concatBytes(r, ORDER)],
    ["r and s of the order", concatBytes(ORDER, ORDER)],
    ["r and s of all ones", new Uint8Array(64).fill(0xff)],
    ["r and s exchanged", concatBytes(s, r)],
    ["nothing", new Uint8Array()],
    ["one byte less", good.subarray(0, 63)],
    ["one byte more", concatBytes(good, Uint8Array.of(0))],
    ["a zero in front", concatBytes(Uint8Array.of(0), good)],
    ["another key's size", new Uint8Array(256)],
    ["another key's signature", rsaGood],
  ])("I2: with a P-256 key, %s is no signature, by the platform and by WebCrypto", async (_, signature) => {
    expect(await bothAnswer(p256.key, signature)).toBe(false);
  });

  it.each([
    ["zeros", new Uint8Array(256)],
    ["one", Uint8Array.from({ length: 256 }, (_, index) => (index === 255 ? 1 : 0))],
    ["the modulus", modulus],
    ["all ones, more than the modulus", new Uint8Array(256).fill(0xff)],
    ["nothing", new Uint8Array()],
    ["one byte less", rsaGood.subarray(0, 255)],
    ["one byte more", concatBytes(rsaGood, Uint8Array.of(0))],
    ["another key's signature", good],
  ])("I2: with an RSA key, %s is no signature, by the platform and by WebCrypto", async (_, signature) => {
    expect(await bothAnswer(rsa.key, signature)).toBe(false);
  });

  it.each<[string, VerificationKey]>([
    ["a point off the curve", { kind: "p256", x, y: flipped(y, 31) }],
    ["the point of zeros", { kind: "p256", x: ZERO, y: ZERO }],
    ["a coordinate beyond the field", { kind: "p256", x: new Uint8Array(32).fill(0xff), y }],
    ["no point", { kind: "p256", x: new Uint8Array(), y: new Uint8Array() }],
    ["a short x and a long y", { kind: "p256", x: x.subarray(0, 31), y: concatBytes(x.subarray(31), y) }],
    ["a long point", { kind: "p256", x, y: concatBytes(y, Uint8Array.of(0)) }],
    ["no modulus", { kind: "rsa2048", modulus: new Uint8Array() }],
    ["a modulus of 2047 bits", { kind: "rsa2048", modulus: modulus.with(0, 0x7f) }],
    [
      "a modulus with a zero in front",
      { kind: "rsa2048", modulus: concatBytes(Uint8Array.of(0), modulus.subarray(1)) },
    ],
    ["a modulus of 2056 bits", { kind: "rsa2048", modulus: concatBytes(modulus, Uint8Array.of(1)) }],
  ])("I2: %s is no key, by the platform and by WebCrypto", async (_, key) => {
    expect(await bothAnswer(key, key.kind === "p256" ? good : rsaGood)).toBe("no key");
  });

  it.each<[string, VerificationKey]>([
    ["an even modulus", { kind: "rsa2048", modulus: modulus.with(255, 0xfe) }],
    ["a modulus of a single bit", { kind: "rsa2048", modulus: new Uint8Array(256).with(0, 0x80) }],
    ["a modulus of ones", { kind: "rsa2048", modulus: new Uint8Array(256).fill(0xff) }],
  ])("I2: nothing is a signature under %s, and nothing is thrown", async (_, key) => {
    for (const signature of [rsaGood, new Uint8Array(256), new Uint8Array(256).with(255, 1)])
      expect(await bothAnswer(key, signature)).not.toBe(true);
  });

  it.each(["p256", "rsa2048"] as const)(
    "I2: both ways give the same answer for %s: signed, changed or random",
    async (kind) => {
      const { key, sign } = pairs[kind];
      await fc.assert(
        fc.asyncProperty(
          fc.uint8Array({ maxLength: 300 }),
          fc.nat(),
          fc.uint8Array({ maxLength: 300 }),
          async (data, at, other) => {
            const signature = sign(data);
            const size = signature.length;
            expect(await bothAnswer(key, signature, data)).toBe(true);
            expect(await bothAnswer(key, flipped(signature, at % size), data)).toBe(false);
            expect(await bothAnswer(key, signature, concatBytes(data, Uint8Array.of(0)))).toBe(false);
            expect(await bothAnswer(key, other, data)).toBe(false);
            expect(await bothAnswer(key, concatBytes(other, signature).subarray(0, size), data)).toBe(
              other.length === 0,
            );
          },
        ),
        { numRuns: 60 },
      );
    },
  );

  it("I2: both ways take and refuse the same points", async () => {
    const half = fc.uint8Array({ minLength: 0, maxLength: 33 });
    const full = fc.uint8Array({ minLength: 32, maxLength: 32 });
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(half, full, fc.constant(x)),
        fc.oneof(half, full, fc.constant(y)),
        async (left, right) => {
          const own = left === x && right === y;
          expect(await bothAnswer({ kind: "p256", x: left, y: right }, good)).toBe(own ? true : "no key");
        },
      ),
    );
  });

  it("parts of a larger buffer are read as they lie", async () => {
    const large = concatBytes(utf8("in front"), good, utf8("behind"));
    const part = large.subarray(8, 72);
    for (const by of [webSignatures, native]) {
      const imported = await by.importKey({ kind: "p256", x: concatBytes(ZERO, x).subarray(32), y });
      const first = imported?.verify(MESSAGE, part);
      expect(await first).toBe(true);
      expect(await imported?.verify(MESSAGE, flipped(part, 0))).toBe(false);
    }
  });

  it("WebCrypto does it where the platform shows no other way: a browser, an old or a foreign `process`", () => {
    expect(native).not.toBe(webSignatures); // Node has one: both ways are tested
    const foreign = [
      runInContext("globalThis", createContext({})),
      {},
      { process: {} },
      { process: { getBuiltinModule: () => undefined } },
      { process: { getBuiltinModule: () => ({ verify: () => true }) } },
      { process: { getBuiltinModule: () => ({ createPublicKey: () => ({}), verify: null }) } },
    ];
    for (const runtime of foreign) expect(openSignatures(runtime)).toBe(webSignatures);
  });

  it("I2: a platform that throws, or that answers with anything but true, has verified nothing", async () => {
    for (const verify of [
      () => {
        throw new Error("no such digest");
      },
      () => 1,
      () => "true",
      () => undefined,
    ]) {
      const by = openSignatures({ process: { getBuiltinModule: () => ({ createPublicKey: () => ({}), verify }) } });
      expect(await answer(by, p256.key, MESSAGE, good)).toBe(false);
    }
  });

  it("I2: everybody who imports a key gets the way of this platform", async () => {
    expect(await answer(signatures, p256.key, MESSAGE, good)).toBe(true);
    const pem = generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey.export({ format: "pem", type: "spki" });
    expect(await (await importVerificationKey(pem.toString())).verify(MESSAGE, good)).toBe(false);
  });
});
