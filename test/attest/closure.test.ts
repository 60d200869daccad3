import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import {
  type ClosureSource,
  defaultLdPaths,
  type MeasuredPin,
  measureClosure,
  type Pin,
} from "../../attest/closure.ts";
import { AttestError } from "../../attest/errors.ts";
import { type ElfImageOptions, elfImage } from "../support/elf-image.ts";
import { libraryCache } from "../support/library-cache.ts";

const LOADER = "/lib64/ld-linux-x86-64.so.2";

function closureOf(
  files: Readonly<Record<string, ElfImageOptions>>,
  links: Readonly<Record<string, string>> = {},
  executable?: string,
  more: Partial<ClosureSource> = {},
): MeasuredPin {
  const all: Readonly<Record<string, ElfImageOptions>> = { [LOADER]: { soname: "ld-linux-x86-64.so.2" }, ...files };
  return measureClosure({
    entry: "/opt/m/libm.so",
    ldPaths: ["/lib", "/usr/lib"],
    readFile: (path) => {
      const options = all[links[path] ?? path];
      return options === undefined ? null : elfImage(options);
    },
    realPath: (path) => links[path] ?? path,
    ...(executable === undefined ? {} : { executable }),
    ...more,
  });
}

const keys = (pin: Pin): string[] => Object.keys(pin.closure).filter((path) => path !== LOADER);
const codeOf = (act: () => unknown): unknown => {
  try {
    act();
  } catch (error) {
    if (error instanceof AttestError) return error.code;
    throw error;
  }
  return undefined;
};

describe("measureClosure, rules of the loader", () => {
  it("dependencies of dependencies are in the closure, under the path that the loader opens", () => {
    const pin = closureOf({
      "/opt/m/libm.so": { needed: ["a"] },
      "/usr/lib/a": { needed: ["b"] },
      "/lib/b": {},
      "/usr/lib/b": {},
    });
    expect(keys(pin)).toEqual(["/lib/b", "/usr/lib/a"]);
    expect(pin.interpreter).toBe(LOADER);
    expect(pin.closure[LOADER]).toMatch(/^[0-9a-f]{64}$/);
  });

  it("a RPATH serves the dependencies of dependencies too, a RUNPATH only its own object", () => {
    const files = { "/opt/m/a": { needed: ["b"] }, "/opt/m/b": {} };
    expect(keys(closureOf({ "/opt/m/libm.so": { needed: ["a"], rpath: "$ORIGIN" }, ...files }))).toEqual([
      "/opt/m/a",
      "/opt/m/b",
    ]);
    expect(codeOf(() => closureOf({ "/opt/m/libm.so": { needed: ["a"], runpath: "$ORIGIN" }, ...files }))).toBe(
      "ERR_CLOSURE_MISSING",
    );
  });

  it("an object with a RUNPATH does not use the RPATH of its parent", () => {
    const files = {
      "/opt/m/libm.so": { needed: ["a"], rpath: "/opt/m" },
      "/opt/m/a": { needed: ["b"], runpath: "/none" },
      "/opt/m/b": {},
    };
    expect(codeOf(() => closureOf(files))).toBe("ERR_CLOSURE_MISSING");
    expect(keys(closureOf({ ...files, "/lib/b": {} }))).toEqual(["/lib/b", "/opt/m/a"]);
  });

  it("a name that is the soname of a loaded object is not searched again", () => {
    const pin = closureOf({
      "/opt/m/libm.so": { needed: ["/opt/x/a", "real"] },
      "/opt/x/a": { soname: "real" },
      "/lib/real": {},
    });
    expect(keys(pin)).toEqual(["/opt/x/a"]);
  });

  it("the loader's soname is never searched, and an executable's own dependencies come first", () => {
    const shim = { needed: ["libc", "ld-linux-x86-64.so.2"], interpreter: LOADER };
    const pin = closureOf(
      {
        "/shim": shim,
        "/lib/libc": { soname: "libc" },
        "/opt/m/libm.so": { needed: ["libc"], runpath: "/opt/m" },
        "/opt/m/libc": {},
      },
      {},
      "/shim",
    );
    expect(keys(pin)).toEqual(["/lib/libc", "/shim"]);
  });

  it("a library for another machine is passed over", () => {
    const pin = closureOf({ "/opt/m/libm.so": { needed: ["a"] }, "/lib/a": { machine: 183 }, "/usr/lib/a": {} });
    expect(keys(pin)).toEqual(["/usr/lib/a"]);
  });

  it("DF_1_NODEFLIB: the default directories are not searched", () => {
    expect(codeOf(() => closureOf({ "/opt/m/libm.so": { needed: ["a"], flags1: 0x800 }, "/lib/a": {} }))).toBe(
      "ERR_CLOSURE_MISSING",
    );
  });

  it("a cycle ends", () => {
    expect(
      keys(
        closureOf({ "/opt/m/libm.so": { needed: ["a"] }, "/lib/a": { needed: ["b"] }, "/lib/b": { needed: ["a"] } }),
      ),
    ).toEqual(["/lib/a", "/lib/b"]);
  });

  it("I1: a missing dependency is refused with the name of the one who needs it", () => {
    expect(() => closureOf({ "/opt/m/libm.so": { needed: ["a"] }, "/lib/a": { needed: ["gone.so"] } })).toThrow(
      /^\/lib\/a needs gone\.so/,
    );
    expect(codeOf(() => closureOf({}))).toBe("ERR_CLOSURE_MISSING");
  });

  it.each([
    ["relative", "lib"],
    ["empty element", "/a::/b"],
    ["$LIB", "/opt/$LIB"],
    ["$ORIGIN inside", "/opt/$ORIGIN"],
    ["$ORIGINAL", "$ORIGINAL/x"],
  ])("a search path that no one can measure is refused: %s", (_, rpath) => {
    expect(codeOf(() => closureOf({ "/opt/m/libm.so": { needed: ["a"], rpath }, "/lib/a": {} }))).toBe(
      "ERR_ELF_UNSUPPORTED",
    );
  });

  it("what is opened later is measured with what it needs, by path or as the library's dlopen searches it", () => {
    const files = {
      "/opt/m/libm.so": { rpath: "$ORIGIN/plugins" },
      "/opt/m/plugins/p": { needed: ["q"], soname: "p" },
      "/opt/m/plugins/q": {},
      "/opt/x/provider": { needed: ["a"] },
      "/lib/a": {},
      "/lib/p": {},
    };
    const also = ["p", "/opt/x/provider"];
    expect(keys(closureOf(files, {}, undefined, { also }))).toEqual([
      "/lib/a",
      "/opt/m/plugins/p",
      "/opt/m/plugins/q",
      "/opt/x/provider",
    ]);
    for (const name of ["gone", "/gone", "dir/relative"]) {
      expect(
        codeOf(() => closureOf(files, {}, undefined, { also: [name] })),
        name,
      ).toMatch(/^ERR_(CLOSURE_MISSING|ELF_UNSUPPORTED)$/);
    }
  });

  it("variants for a class of processors are opened when the class is named, the best one first, in every directory searched", () => {
    const files = {
      "/opt/m/libm.so": { needed: ["a", "b"], runpath: "/opt/r" },
      "/opt/r/a": {},
      "/opt/r/glibc-hwcaps/x86-64-v2/a": {},
      "/opt/r/glibc-hwcaps/x86-64-v4/a": {},
      "/lib/glibc-hwcaps/x86-64-v3/b": {},
      "/lib/b": {},
    };
    const at = (cpu?: ClosureSource["cpu"]) => keys(closureOf(files, {}, undefined, cpu === undefined ? {} : { cpu }));
    expect(at()).toEqual(["/lib/b", "/opt/r/a"]);
    expect(at("x86-64-v2")).toEqual(["/lib/b", "/opt/r/glibc-hwcaps/x86-64-v2/a"]);
    expect(at("x86-64-v3")).toEqual(["/lib/glibc-hwcaps/x86-64-v3/b", "/opt/r/glibc-hwcaps/x86-64-v2/a"]);
    expect(at("x86-64-v4")).toEqual(["/lib/glibc-hwcaps/x86-64-v3/b", "/opt/r/glibc-hwcaps/x86-64-v4/a"]);
  });

  it("a cache comes after RUNPATH and before the default directories, of which it may not speak under DF_1_NODEFLIB", () => {
    const cache = libraryCache([
      { name: "a", path: "/opt/cached/a" },
      { name: "b", path: "/lib/b" },
      { name: "c", path: "/gone/c" },
    ]);
    const files = {
      "/opt/cached/a": {},
      "/lib/a": {},
      "/lib/b": {},
      "/usr/lib/c": {},
    };
    const needed = { "/opt/m/libm.so": { needed: ["a", "b", "c"] }, ...files };
    expect(keys(closureOf(needed))).toEqual(["/lib/a", "/lib/b", "/usr/lib/c"]);
    expect(keys(closureOf(needed, {}, undefined, { cache }))).toEqual(["/lib/b", "/opt/cached/a", "/usr/lib/c"]);
    const own = { "/opt/m/libm.so": { needed: ["a"], runpath: "/opt/r" }, "/opt/r/a": {}, ...files };
    expect(keys(closureOf(own, {}, undefined, { cache }))).toEqual(["/opt/r/a"]);
    const strict = (name: string) => ({ "/opt/m/libm.so": { needed: [name], flags1: 0x800 }, ...files });
    expect(keys(closureOf(strict("a"), {}, undefined, { cache }))).toEqual(["/opt/cached/a"]);
    expect(codeOf(() => closureOf(strict("b"), {}, undefined, { cache }))).toBe("ERR_CLOSURE_MISSING");
  });

  it("a library for another machine than the shim's is refused, and so is one of 32 bits", () => {
    expect(codeOf(() => closureOf({ "/opt/m/libm.so": { machine: 183 } }, {}, undefined, { machine: "x86_64" }))).toBe(
      "ERR_CLOSURE",
    );
    const narrow = elfImage();
    narrow[4] = 1;
    const readFile = () => narrow;
    expect(codeOf(() => measureClosure({ entry: "/lib/x.so", readFile }))).toBe("ERR_ELF_UNSUPPORTED");
  });

  it("warnings name each object and what it does", () => {
    const quiet = { stack: 6 };
    const pin = closureOf(
      {
        [LOADER]: { soname: "ld-linux-x86-64.so.2", ...quiet },
        "/opt/m/libm.so": { needed: ["a"], ...quiet, strings: ["dlopen"] },
        "/lib/a": { stack: 7, tags: [22] },
      },
      {},
    );
    expect(pin.warnings).toEqual([
      { path: "/lib/a", trait: "executable-stack" },
      { path: "/lib/a", trait: "text-relocations" },
      { path: "/opt/m/libm.so", trait: "opens-later" },
    ]);
  });

  it("one file under two paths is refused: a private root of copies would load it twice", () => {
    const files = { "/opt/m/libm.so": { needed: ["a", "b"] }, "/lib/a": {} };
    expect(codeOf(() => closureOf(files, { "/lib/b": "/lib/a" }))).toBe("ERR_CLOSURE");
  });
});

describe("measureClosure against glibc", () => {
  const machine = process.arch === "arm64" ? "aarch64" : "x86_64";
  const loader = machine === "x86_64" ? LOADER : "/lib/ld-linux-aarch64.so.1";
  const directory = mkdtempSync(join(realpathSync(tmpdir()), "closure-"));
  afterAll(() => rmSync(directory, { recursive: true }));

  /** What the loader opens for a trusted file, told by itself, without ld.so.cache. */
  const traced = (path: string): string[] => {
    const out = execFileSync(loader, ["--inhibit-cache", "--list", path], { encoding: "utf8", env: {} });
    const paths = out.split("\n").map((line) => /(?:=> )?(\/\S+) \(0x/.exec(line)?.[1]);
    return [...new Set([...paths.filter((found) => found !== undefined), loader])].sort();
  };
  const measured = (entry: string, more: Partial<ClosureSource> = {}): string[] =>
    Object.keys(
      measureClosure({
        ...{ entry, ...more },
        readFile: (path) => {
          try {
            return readFileSync(path);
          } catch {
            return null;
          }
        },
        realPath: (path) => realpathSync(path),
        ldPaths: defaultLdPaths(machine),
      }).closure,
    );
  const compile = (output: string, ...flags: string[]): string => {
    execFileSync("gcc", [
      "-shared",
      "-x",
      "c",
      "/dev/null",
      "-o",
      join(directory, output),
      "-Wl,--no-as-needed",
      ...flags,
    ]);
    return join(directory, output);
  };

  it("the closure of SoftHSM's library is what the loader opens", () => {
    expect(measured("/usr/lib/softhsm/libsofthsm2.so")).toEqual(traced("/usr/lib/softhsm/libsofthsm2.so"));
  });

  it.skipIf(machine !== "x86_64")("variants of libraries resolve as in the loader, class by class", () => {
    for (const variant of ["", "glibc-hwcaps/x86-64-v2", "glibc-hwcaps/x86-64-v3"]) {
      mkdirSync(join(directory, "v", variant), { recursive: true });
      compile(`v/${variant}/libv.so`);
    }
    const entry = compile("libuser.so", `-L${directory}/v`, "-l:libv.so", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/v");
    const supported = execFileSync(loader, ["--help"], { encoding: "utf8" });
    const levels = (["x86-64-v2", "x86-64-v3"] as const).filter((level) => supported.includes(`${level} (supported`));
    expect(levels).toContain("x86-64-v2");
    for (const cpu of levels) {
      const mask = levels.slice(0, levels.indexOf(cpu) + 1).join(":");
      const out = execFileSync(loader, ["--inhibit-cache", "--glibc-hwcaps-mask", mask, "--list", entry], {
        encoding: "utf8",
        env: {},
      });
      const opened = /libv\.so => (\S+)/.exec(out)?.[1] ?? "";
      expect(measured(entry, { cpu })).toContain(join(opened));
      expect(opened).toContain(cpu);
    }
  });

  it("RPATH, RUNPATH and $ORIGIN resolve as in the loader", () => {
    mkdirSync(join(directory, "x/y"), { recursive: true });
    compile("x/y/libc1.so");
    compile("x/libc1.so");
    compile("x/libb1.so", `-L${directory}/x`, "-l:libc1.so");
    compile("x/libb2.so", `-L${directory}/x`, "-l:libc1.so", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/y/../y");
    const link = [`-L${directory}/x`, `-Wl,-rpath-link,${directory}/x`];
    const rpath = compile(
      "liba1.so",
      ...link,
      "-l:libb1.so",
      `-Wl,--disable-new-dtags,-rpath,$ORIGIN/x/y:${"$"}{ORIGIN}/x`,
    );
    const runpath = compile("liba2.so", ...link, "-l:libb2.so", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/x");
    expect(measured(rpath)).toEqual(traced(rpath));
    expect(measured(rpath)).toContain(join(directory, "x/y/libc1.so"));
    const normal = (paths: string[]): string[] => paths.map((path) => join(path)).sort();
    expect(measured(runpath)).toEqual(normal(traced(runpath)));
    expect(measured(runpath)).toContain(join(directory, "x/y/libc1.so"));
  });
});
