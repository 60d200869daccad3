import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ShimFile } from "../../agent/spawner-client.ts";
import { buildLab, MODULE, openLab, shimFiles } from "../support/hostile-lab.ts";
import { type Bench, buildHostile, NATIVE_DIRECTORY, openBench } from "../support/shim-fixture.ts";

let bench: Bench;
let program: string;

beforeAll(() => {
  bench = openBench();
  program = buildHostile(bench, "bindings", "program");
});
afterAll(() => bench.remove());

/** A shared object of this source that finds `needed` beside itself. */
function compile(name: string, source: string, needed: readonly string[] = []): string {
  const from = join(bench.directory, `${name}.c`);
  const output = join(bench.directory, `lib${name}.so`);
  writeFileSync(from, source);
  const libraries = needed.map((library) => join(bench.directory, `lib${library}.so`));
  const flags = ["-O1", "-fPIC", "-shared", "-fno-builtin", "-w", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN"];
  execFileSync("gcc", [...flags, `-Wl,-soname,lib${name}.so`, "-o", output, from, ...libraries]);
  return output;
}

/** `from symbol` -> the object that it is bound to, by file names, as the loader reports it. */
function bindings(library: string, impostor: string, flags: readonly string[] = []): Map<string, string> {
  const log = join(bench.directory, `log-${basename(library)}-${basename(impostor)}-${flags.length}`);
  const env = { LD_DEBUG: "bindings", LD_DEBUG_OUTPUT: log, LD_PRELOAD: impostor };
  // an impostor may break what runs: only the loader's log counts
  spawnSync(program, [library, ...flags], { env });
  const found = new Map<string, string>();
  for (const name of readdirSync(bench.directory).filter((file) => file.startsWith(`${basename(log)}.`))) {
    for (const line of readFileSync(join(bench.directory, name), "utf8").split("\n")) {
      const [, from = "", to = "", symbol = ""] =
        /binding file (\S+) \[0\] to (\S+) \[0\]: \w+ symbol `([^']+)'/.exec(line) ?? [];
      if (symbol !== "") found.set(`${basename(from)} ${symbol}`, basename(to));
    }
  }
  return found;
}

function symbolsOf(path: string, which: string): string[] {
  const listing = execFileSync("nm", ["-D", which, "--format=posix", path], { encoding: "utf8" });
  return listing.split("\n").map((line) => (line.split(" ")[0] ?? "").replace(/@.*$/, ""));
}

const boundOf = (bound: ReadonlyMap<string, string>, objects: readonly string[]) =>
  [...bound].filter(([key]) => objects.includes(key.split(" ")[0] ?? ""));

describe("symbols of a library under the shim's flags", () => {
  test("I1: a dependency may stand in for libc, and nothing outside the pinned set may", () => {
    compile("first", "int getpid(void) { return 1; } int shared_name(void) { return 1; }");
    compile("second", "int shared_name(void) { return 2; } int only_here(void) { return getpid() + shared_name(); }");
    const source =
      "int C_GetFunctionList(void **list) { return getpid() + shared_name() + only_here() + (int)write(1, list, 0); }";
    const library = compile("module", source, ["first", "second"]);
    const names = ["getpid", "shared_name", "only_here", "write"];
    const impostor = compile("impostor", names.map((name) => `int ${name}(void) { return 9; }`).join("\n"));
    const bound = bindings(library, impostor);
    expect(
      Object.fromEntries(
        boundOf(bound, ["libmodule.so", "libsecond.so"]).filter(([key]) => names.includes(key.split(" ")[1] ?? "")),
      ),
    ).toEqual({
      "libmodule.so getpid": "libfirst.so",
      "libmodule.so shared_name": "libfirst.so",
      "libmodule.so only_here": "libsecond.so",
      "libmodule.so write": "libc.so.6",
      "libsecond.so getpid": "libfirst.so",
      "libsecond.so shared_name": "libfirst.so",
    });
    expect(
      boundOf(bound, ["libmodule.so", "libsecond.so", "libfirst.so"]).filter(([, to]) => to === basename(impostor)),
    ).toEqual([]);
    const shallow = boundOf(bindings(library, impostor, ["shallow"]), ["libmodule.so"]);
    expect(shallow).toContainEqual(["libmodule.so getpid", basename(impostor)]);
  });

  test("I1: an indirect function binds inside the pinned set, whatever kind of symbol the impostor has", () => {
    const indirect = (name: string, answer: number) =>
      `static int chosen(void) { return ${answer}; } static void *choose(void) { return chosen; }
       int ${name}(void) __attribute__((ifunc("choose")));`;
    compile("indirect", indirect("by_processor", 1));
    const library = compile("caller", "int C_GetFunctionList(void) { return by_processor(); }", ["indirect"]);
    for (const [name, source] of [
      ["impostor-plain", "int by_processor(void) { return 9; }"],
      ["impostor-indirect", indirect("by_processor", 9)],
    ] as const) {
      const bound = bindings(library, compile(name, source));
      expect(bound.get("libcaller.so by_processor")).toBe("libindirect.so");
    }
  });

  test("I1: a library that exports every name that the shim needs gets none of the shim's calls", async () => {
    const lab = openLab(buildLab(bench));
    const imported = symbolsOf(join(NATIVE_DIRECTORY, "shim"), "--undefined-only");
    const own = symbolsOf(
      buildHostile(bench, "swapped", "module", ["-DVERSION=65", "-DDEPENDENCY"]),
      "--undefined-only",
    );
    // those that the library calls itself stay libc's
    const used = new Set([...own, "open", "read", "close", "memcpy", "memset", "__open_2", "__read_chk"]);
    const names = imported.filter((name) => !used.has(name) && !/^_(?!_\w+_chk$)/.test(name));
    expect(names).toEqual(
      expect.arrayContaining(["write", "mmap", "munmap", "syscall", "__explicit_bzero_chk", "dlopen"]),
    );
    const thief = join(bench.directory, "thief.c");
    const body = (name: string) => `__attribute__((visibility("default"))) void ${name}(void) { __builtin_trap(); }`;
    writeFileSync(thief, `char dependency_version(void) { return 'T'; }\n${names.map(body).join("\n")}\n`);
    const module = buildHostile(bench, "swapped", "module", ["-DVERSION=65", "-fno-builtin", "-w", thief]);
    writeFileSync(join(bench.directory, "conf"), `${"t".repeat(31)}\n`);
    const file = (path: string, from: string): ShimFile => ({
      ...{ path, source: { kind: "root", path: from }, executable: false, writable: false },
    });
    const files = shimFiles(lab.build, [file(MODULE, module), file("/lab/module.conf", join(bench.directory, "conf"))]);
    const shim = await lab.start({ files });
    expect((await shim.call("load", MODULE)).description).toBe("AT");
    await shim.give("pin");
    await shim.call("login", 0n);
    expect(await shim.call("keys", 0n)).toEqual([]);
    await shim.call("arm");
    expect(await shim.call("status")).toBe(0n);
    await lab.stop();
  });

  const unique = (value: number) =>
    `__asm__(".data\\n.globl one_for_all\\n.type one_for_all,@gnu_unique_object\\n.size one_for_all,4\\none_for_all: .long ${value}\\n.text");
     extern int one_for_all; int value(void) { return one_for_all; }`;

  test("I1: a unique symbol is the process's, whichever object brought it first: RTLD_DEEPBIND does not help", () => {
    const library = compile("unique", unique(1));
    const impostor = compile("impostor-unique", unique(9));
    expect(bindings(library, impostor).get("libunique.so one_for_all")).toBe(basename(impostor));
  });

  test("I1: so what is in the shim before a library is loaded has no unique symbol, and exports nothing else than libc does", () => {
    const shim = join(NATIVE_DIRECTORY, "shim");
    const listed = execFileSync("ldd", [shim], { encoding: "utf8" });
    const objects = [shim, ...[...listed.matchAll(/(\/\S+) \(0x/g)].map(([, path = ""]) => path)];
    expect(objects.map((path) => basename(path)).sort()).toEqual(["ld-linux-x86-64.so.2", "libc.so.6", "shim"]);
    for (const path of objects) {
      const symbols = execFileSync("readelf", ["--dyn-syms", "--wide", path], { encoding: "utf8" });
      expect(
        symbols.split("\n").filter((line) => / UNIQUE /.test(line)),
        path,
      ).toEqual([]);
    }
  });
});
