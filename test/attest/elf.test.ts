import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type ElfObject, parseElf } from "../../attest/elf.ts";
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

  it.each<[string, ElfImageOptions, keyof ElfObject["traits"]]>([
    ["no PT_GNU_STACK", {}, "executableStack"],
    ["an executable PT_GNU_STACK", { stack: 7 }, "executableStack"],
    ["DT_TEXTREL", { stack: 6, tags: [22] }, "textRelocations"],
    ["DF_TEXTREL", { stack: 6, flags: 4 }, "textRelocations"],
    ["a writable and executable PT_LOAD", { stack: 6, loadFlags: 7 }, "writableCode"],
    ["the name dlopen", { stack: 6, strings: ["dlopen"] }, "opensLater"],
    ["a name that ends in dlmopen", { stack: 6, strings: ["x_dlmopen"] }, "opensLater"],
  ])("I1: %s is told", (_, options, trait) => {
    const none = { executableStack: false, textRelocations: false, writableCode: false, opensLater: false };
    expect(parseElf(elfImage({ stack: 6, strings: ["dlopen_not", "undlopened"] })).traits).toEqual(none);
    expect(parseElf(elfImage(options)).traits).toEqual({ ...none, [trait]: true });
  });

  it("I1: what the compiler is asked for is told of what it makes", () => {
    const directory = mkdtempSync(join(tmpdir(), "elf-"));
    const made = (name: string, source: string, ...flags: string[]) => {
      const path = join(directory, name);
      writeFileSync(`${path}.c`, source);
      execFileSync("gcc", ["-shared", "-o", path, `${path}.c`, ...flags], { stdio: "pipe" });
      return parseElf(readFileSync(path)).traits;
    };
    const none = { executableStack: false, textRelocations: false, writableCode: false, opensLater: false };
    try {
      const open = "void *dlopen(const char *, int); void *f(void) { return dlopen(0, 1); }";
      expect(made("plain", "int f(void) { return 1; }", "-fPIC")).toEqual(none);
      expect(made("stack", "int f(void) { return 1; }", "-fPIC", "-Wl,-z,execstack")).toEqual({
        ...none,
        executableStack: true,
      });
      expect(made("opens", open, "-fPIC")).toEqual({ ...none, opensLater: true });
      const text = "extern int other; int *f(void) { return &other; }";
      expect(made("text", text, "-fno-pic", "-mcmodel=large", "-Wl,-z,notext")).toEqual({
        ...none,
        textRelocations: true,
      });
      expect(
        made("omagic", "int x = 1; int f(void) { return x; }", "-fPIC", "-nostdlib", "-Wl,--omagic").writableCode,
      ).toBe(true);
    } finally {
      rmSync(directory, { recursive: true });
    }
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
