import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../attest/elf.ts";
import { AttestError } from "../../attest/errors.ts";
import { type ElfImageOptions, elfImage } from "../support/elf-image.ts";

const name = fc.stringMatching(/^[a-zA-Z0-9_.+-]{1,20}$/);
const thrown = (act: () => unknown): unknown => {
  try {
    act();
  } catch (error) {
    return error;
  }
  return undefined;
};
const codeOf = (bytes: Uint8Array): unknown => {
  const error = thrown(() => parseElf(bytes));
  return error instanceof AttestError ? error.code : error;
};

describe("parseElf", () => {
  it("reads the names back in order", () => {
    fc.assert(
      fc.property(fc.array(name, { maxLength: 6 }), name, (needed, soname) => {
        const elf = parseElf(elfImage({ needed, soname }));
        expect(elf).toMatchObject({
          machine: "x86_64",
          kind: "shared",
          needed,
          soname,
          rpath: [],
          runpath: null,
          searchesDefaults: true,
        });
      }),
    );
  });

  it("a RUNPATH hides the RPATH, an absent one does not", () => {
    expect(parseElf(elfImage({ rpath: "/a:/b" }))).toMatchObject({ rpath: ["/a", "/b"], runpath: null });
    expect(parseElf(elfImage({ rpath: "/a", runpath: "/c" }))).toMatchObject({ rpath: [], runpath: ["/c"] });
  });

  it("the interpreter and DF_1_NODEFLIB are read", () => {
    const elf = parseElf(elfImage({ interpreter: "/lib64/ld.so", flags1: 0x800 }));
    expect(elf).toMatchObject({ interpreter: "/lib64/ld.so", searchesDefaults: false });
  });

  it.each([
    [0x7ffffffd, "DT_AUXILIARY"],
    [0x7fffffff, "DT_FILTER"],
    [0x6ffffefc, "DT_AUDIT"],
    [0x6ffffefb, "DT_DEPAUDIT"],
  ])("I1: tag 0x%s (%s), which makes the loader open more files, is refused", (tag) => {
    expect(codeOf(elfImage({ tags: [tag] }))).toBe("ERR_ELF_UNSUPPORTED");
  });

  it.each<[string, ElfImageOptions]>([
    ["two sonames", { soname: "a", tags: [14] }],
    ["a relative interpreter", { interpreter: "ld.so" }],
    ["an empty name", { needed: [""] }],
    ["a name with a line feed", { needed: ["a\nb"] }],
  ])("%s: refused as malformed", (_, options) => {
    expect(codeOf(elfImage(options))).toBe("ERR_ELF_MALFORMED");
  });

  it("I1: a dynamic section whose file offset is not where its address is mapped from is refused", () => {
    const bytes = elfImage({ needed: ["liba.so"] });
    new DataView(bytes.buffer).setBigUint64(64 + 56 + 8, 16n, true);
    expect(codeOf(bytes)).toBe("ERR_ELF_MALFORMED");
  });

  it.each([
    ["32-bit", 4, 1],
    ["big-endian", 5, 2],
    ["relocatable", 16, 1],
    ["for another machine", 18, 3],
  ])("an object that is %s is refused as unsupported", (_, at, value) => {
    const bytes = elfImage();
    bytes[at] = value;
    expect(codeOf(bytes)).toBe("ERR_ELF_UNSUPPORTED");
  });

  it("I10: random and mutated bytes end in a typed error or parse", () => {
    const valid = elfImage({ needed: ["liba.so", "libb.so"], soname: "s", runpath: "/x", interpreter: "/i" });
    const check = (bytes: Uint8Array): void => {
      const error = thrown(() => parseElf(bytes));
      expect(error === undefined || error instanceof AttestError).toBe(true);
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), check));
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

  it("Node's own executable parses", () => {
    expect(parseElf(readFileSync(process.execPath)).needed).toContain("libc.so.6");
  });
});
