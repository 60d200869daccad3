import { createContext, runInContext } from "node:vm";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fromHex, toHex, utf8 } from "../../policy/bytes.ts";
import { type Hashes, openHashes, pureHashes, sha256, sha256Hex, sha384, sha512 } from "../../policy/hash.ts";

const names = ["sha256", "sha384", "sha512"] as const satisfies readonly (keyof Hashes)[];

describe("hashes", () => {
  it.each([
    ["sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
    ["sha384", "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"],
    [
      "sha512",
      "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ],
  ] as const)("%s of `abc` is that of FIPS 180-4, by the platform and in JavaScript", (name, digest) => {
    for (const hashes of [openHashes(globalThis), pureHashes]) {
      expect(hashes[name](utf8("abc"))).toEqual(fromHex(digest));
    }
  });

  it("are the same bytes by the platform as in JavaScript, for parts of a buffer too", () => {
    const native = openHashes(globalThis);
    expect(native).not.toBe(pureHashes); // Node has them: both ways are tested
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.nat(40), (whole, from) => {
        const part = whole.subarray(Math.min(from, whole.length));
        for (const name of names) expect(native[name](part)).toEqual(pureHashes[name](part));
      }),
    );
  });

  it("are written where they are wanted: nothing beside them, and over what is hashed too", () => {
    const into = [
      ["sha256", "sha256Into", 32],
      ["sha384", "sha384Into", 48],
    ] as const;
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 200 }), (bytes) => {
        for (const hashes of [openHashes(globalThis), pureHashes]) {
          for (const [name, write, size] of into) {
            const expected = Uint8Array.of(...pureHashes[name](bytes), ...bytes.subarray(size));
            const target = bytes.slice();
            hashes[write](target, target);
            expect(target).toEqual(expected);
          }
        }
      }),
    );
  });

  it("are made in JavaScript where the platform shows none: a browser, an old or a foreign `process`", () => {
    const foreign = [
      runInContext("globalThis", createContext({})),
      {},
      { process: {} },
      { process: { getBuiltinModule: () => undefined } },
      { process: { getBuiltinModule: () => ({ createHash: () => null }) } },
    ];
    for (const runtime of foreign) expect(openHashes(runtime)).toBe(pureHashes);
  });

  it("are the ones of the platform for everybody who imports them", () => {
    const bytes = utf8("one place decides");
    expect([sha256, sha384, sha512].map((hash) => toHex(hash(bytes)))).toEqual(
      names.map((name) => toHex(pureHashes[name](bytes))),
    );
    expect(sha256Hex(bytes)).toBe(toHex(sha256(bytes)));
  });
});
