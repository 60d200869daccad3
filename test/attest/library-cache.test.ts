import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AttestError } from "../../attest/errors.ts";
import { parseLibraryCache } from "../../attest/library-cache.ts";
import { libraryCache } from "../support/library-cache.ts";

const thrown = (act: () => unknown): unknown => {
  try {
    act();
  } catch (error) {
    return error;
  }
  return undefined;
};
const codeOf = (bytes: Uint8Array): unknown => {
  const error = thrown(() => parseLibraryCache(bytes));
  return error instanceof AttestError ? error.code : error;
};

describe("parseLibraryCache", () => {
  const name = fc.stringMatching(/^[a-z0-9_.+-]{1,12}$/);
  test("finds every name, the first of two, and nothing for another machine", () => {
    fc.assert(
      fc.property(fc.uniqueArray(name, { maxLength: 8 }), (names) => {
        const entries = names.flatMap((own) => [
          { name: own, path: `/first/${own}` },
          { name: own, path: `/second/${own}` },
        ]);
        const cache = parseLibraryCache(libraryCache(entries));
        for (const own of names) {
          expect(cache.find(own, "x86_64", undefined)).toBe(`/first/${own}`);
          expect(cache.find(own, "aarch64", undefined)).toBeNull();
        }
        expect(cache.find("no such name", "x86_64", undefined)).toBeNull();
      }),
    );
  });

  test("takes the best variant that the processor has, and refuses to guess at it", () => {
    const cache = parseLibraryCache(
      libraryCache([
        { name: "a", path: "/v4/a", variant: "x86-64-v4" },
        { name: "a", path: "/v2/a", variant: "x86-64-v2" },
        { name: "a", path: "/other/a", variant: "of-another-kind" },
        { name: "a", path: "/old/a", hwcap: 1n << 50n },
        { name: "a", path: "/a" },
        { name: "b", path: "/b" },
      ]),
    );
    expect(cache.find("a", "x86_64", "x86-64-v2")).toBe("/v2/a");
    expect(cache.find("a", "x86_64", "x86-64-v3")).toBe("/v2/a");
    expect(cache.find("a", "x86_64", "x86-64-v4")).toBe("/v4/a");
    expect(thrown(() => cache.find("a", "x86_64", undefined))).toMatchObject({ code: "ERR_CLOSURE" });
    expect(cache.find("b", "x86_64", undefined)).toBe("/b");
  });

  test.each<[string, (bytes: Uint8Array) => Uint8Array, string]>([
    ["an older format", () => new TextEncoder().encode("ld.so-1.7.0\0"), "ERR_ELF_UNSUPPORTED"],
    ["nothing", () => new Uint8Array(), "ERR_ELF_UNSUPPORTED"],
    ["cut in its entries", (bytes) => bytes.subarray(0, 60), "ERR_ELF_MALFORMED"],
    ["of the other byte order", (bytes) => bytes.with(28, 3), "ERR_ELF_MALFORMED"],
    ["with more entries than it holds", (bytes) => bytes.with(21, 1), "ERR_ELF_MALFORMED"],
    ["with a name outside", (bytes) => bytes.with(55, 0x7f), "ERR_ELF_MALFORMED"],
    ["with an index of no variant", (bytes) => bytes.with(64, 9), "ERR_ELF_MALFORMED"],
    ["with an extension of another kind", (bytes) => bytes.with(bytes.length - 28, 0), "ERR_ELF_MALFORMED"],
  ])("a cache %s is refused", (_, change, code) => {
    const whole = libraryCache([{ name: "a", path: "/a", variant: "x86-64-v2" }]);
    expect(codeOf(whole)).toBeUndefined();
    expect(codeOf(change(whole))).toBe(code);
  });

  test("I10: random and mutated bytes end in a typed error or parse", () => {
    const valid = libraryCache([
      { name: "liba.so", path: "/lib/liba.so", variant: "x86-64-v3" },
      { name: "libb.so", path: "/lib/libb.so" },
    ]);
    const check = (bytes: Uint8Array): void => {
      const error = thrown(() => parseLibraryCache(bytes).find("liba.so", "x86_64", "x86-64-v2"));
      expect(error === undefined || error instanceof AttestError).toBe(true);
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), check));
    const edit = fc.tuple(fc.nat(valid.length - 1), fc.nat(255));
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), fc.nat(valid.length), (edits, length) => {
        const bytes = valid.slice();
        for (const [at, value] of edits) bytes[at] = value;
        check(bytes);
        check(bytes.subarray(0, length));
      }),
      { numRuns: 1000 },
    );
  });

  test("a cache of ldconfig says what ldconfig says, variants included", () => {
    const directory = mkdtempSync(join(tmpdir(), "library-cache-"));
    try {
      const [libraries, conf, file] = ["libraries", "conf", "cache"].map((part) => join(directory, part)) as [
        string,
        string,
        string,
      ];
      for (const variant of ["", "glibc-hwcaps/x86-64-v2", "glibc-hwcaps/x86-64-v3"]) {
        mkdirSync(join(libraries, variant), { recursive: true });
        const output = join(libraries, variant, "libvaried.so.1");
        execFileSync("gcc", ["-shared", "-x", "c", "/dev/null", "-o", output, "-Wl,-soname,libvaried.so.1"]);
      }
      writeFileSync(conf, `${libraries}\n`);
      execFileSync("/sbin/ldconfig", ["-X", "-f", conf, "-C", file], { stdio: "pipe" });
      const cache = parseLibraryCache(readFileSync(file));
      expect(cache.find("libvaried.so.1", "x86_64", "x86-64-v2")).toBe(
        join(libraries, "glibc-hwcaps/x86-64-v2/libvaried.so.1"),
      );
      expect(cache.find("libvaried.so.1", "x86_64", "x86-64-v4")).toBe(
        join(libraries, "glibc-hwcaps/x86-64-v3/libvaried.so.1"),
      );
      const listed = execFileSync("/sbin/ldconfig", ["-p", "-C", file], { encoding: "utf8" });
      const plain = [...listed.matchAll(/^\t(\S+) \(libc6,x86-64\) => (\S+)$/gm)].map(([, name = "", path = ""]) => ({
        name,
        path,
      }));
      expect(plain.length).toBeGreaterThan(10);
      for (const { name, path } of plain) {
        const first = plain.find((other) => other.name === name)?.path;
        if (name !== "libvaried.so.1") expect(cache.find(name, "x86_64", undefined), path).toBe(first);
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
