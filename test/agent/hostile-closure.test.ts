import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ShimFile } from "../../agent/spawner-client.ts";
import { type ClosureSource, measureClosure } from "../../attest/closure.ts";
import { buildLab, type Lab, openLab } from "../support/hostile-lab.ts";
import { type Bench, buildHostile, NATIVE_DIRECTORY, openBench, SOFTHSM } from "../support/shim-fixture.ts";

// The private root holds what was measured and nothing else, so whatever the loader then maps, it finds there or not at all.

const CONF = "/lab/softhsm2.conf";
const CACHE = "/etc/ld.so.cache";
let bench: Bench;
let lab: Lab;
beforeAll(() => {
  bench = openBench();
  lab = openLab(buildLab(bench));
});
afterAll(async () => {
  await lab.stop();
  bench.remove();
});

const at = (...parts: readonly string[]) => join(bench.directory, ...parts);
const file = (path: string, from: string): ShimFile => ({
  ...{ path, source: { kind: "root", path: from }, executable: path !== CONF && path !== CACHE, writable: false },
});

/** The closure of a library as the shim loads it, by the paths of the private root; `from` says where a path lies here. */
function measured(entry: string, from: (path: string) => string, more: Partial<ClosureSource> = {}) {
  const place = (path: string) => (path === "/shim" ? join(NATIVE_DIRECTORY, "shim") : from(path));
  return measureClosure({
    ...{ entry, executable: "/shim", ...more },
    readFile: (path) => (existsSync(place(path)) ? new Uint8Array(readFileSync(place(path))) : null),
    realPath: (path) => realpathSync(place(path)),
  });
}

/** Loads it in a root of exactly its closure and these files; gives what the loader says it mapped. */
async function load(
  pin: ReturnType<typeof measured>,
  from: (path: string) => string,
  others: readonly ShimFile[],
  environment = {},
) {
  const paths = [pin.path, ...Object.keys(pin.closure).filter((path) => path !== "/shim")];
  const files = [
    file("/shim", join(NATIVE_DIRECTORY, "shim")),
    { ...file("/profile", lab.build.profilePath), executable: false },
    ...paths.map((path) => file(path, from(path))),
    ...others,
  ];
  const shim = await lab.start({ files, environment });
  const { objects } = await shim.call("load", pin.path);
  await shim.close();
  return objects.filter((path) => path.startsWith("/"));
}

const here = (path: string) => path;

describe("a private root of exactly the measured closure", () => {
  test("I1: SoftHSM maps every object of its closure, and none besides", async () => {
    writeFileSync(at("conf"), "directories.tokendir = /var/lib/softhsm/tokens\nobjectstore.backend = file\n");
    const pin = measured(SOFTHSM, here);
    const objects = await load(pin, here, [file(CONF, at("conf"))], { SOFTHSM2_CONF: CONF });
    const { "/shim": _program, ...closure } = pin.closure;
    expect(objects.toSorted()).toEqual([SOFTHSM, ...Object.keys(closure)].sort());
  });

  /** A module with a dependency, each in a place of its own. */
  function makeModule(
    name: string,
    search: readonly string[],
  ): { readonly entry: string; readonly from: (path: string) => string } {
    const flags = ["-DVERSION=65", "-fvisibility=hidden"];
    const dependency = at(`lib${name}.so`);
    execFileSync("mv", [
      buildHostile(bench, "swapped", "module", [...flags, "-DDEPENDENCY", `-Wl,-soname,lib${name}.so`]),
      dependency,
    ]);
    const module = buildHostile(bench, "swapped", "module", [...flags, dependency, ...search]);
    execFileSync("mv", [module, at(`${name}.so`)]);
    writeFileSync(at("module.conf"), `${"m".repeat(31)}\n`);
    const entry = `/lab/${name}.so`;
    const from = (path: string) =>
      path === entry
        ? at(`${name}.so`)
        : path.startsWith("/lab/lib/") && path.endsWith(`/lib${name}.so`)
          ? at(`lib${name}.so`)
          : path;
    return { entry, from };
  }

  test("I1: a library that only a measured ld.so.cache names is found through it, and without it neither measured nor loaded", async () => {
    const { entry, from } = makeModule("cached", []);
    mkdirSync(at("opt"), { recursive: true });
    execFileSync("cp", [at("libcached.so"), at("opt/libcached.so")]);
    writeFileSync(at("ld.so.conf"), `${at("opt")}\n`);
    execFileSync("/sbin/ldconfig", ["-X", "-f", at("ld.so.conf"), "-C", at("ld.so.cache")], { stdio: "pipe" });
    expect(() => measured(entry, (path) => (path.endsWith("libcached.so") ? path : from(path)))).toThrow(
      /needs libcached\.so/,
    );
    const cache = new Uint8Array(readFileSync(at("ld.so.cache")));
    const place = (path: string) => (path === at("opt/libcached.so") ? path : from(path));
    const pin = measured(entry, (path) => (path === entry ? from(path) : path), { cache });
    expect(Object.keys(pin.closure)).toContain(at("opt/libcached.so"));
    const others = [file("/lab/module.conf", at("module.conf")), file(CACHE, at("ld.so.cache"))];
    const objects = await load(pin, place, others);
    expect(objects).toEqual(expect.arrayContaining([entry, at("opt/libcached.so")]));
    for (const path of objects) expect(path === entry || Object.hasOwn(pin.closure, path), path).toBe(true);
    await expect(load(pin, place, others.slice(0, 1))).rejects.toThrow(/libcached\.so: cannot open shared object file/);
  });

  test("I1: a variant for a class of processors that was named is the one that is mapped", async () => {
    const { entry, from } = makeModule("varied", ["-Wl,-rpath,/lab/lib"]);
    const only = (path: string) => (path === "/lab/lib/libvaried.so" ? at("none") : from(path));
    expect(() => measured(entry, only, {})).toThrow(/needs libvaried\.so/);
    const pin = measured(entry, only, { cpu: "x86-64-v2" });
    const variant = "/lab/lib/glibc-hwcaps/x86-64-v2/libvaried.so";
    expect(Object.keys(pin.closure)).toContain(variant);
    expect(await load(pin, only, [file("/lab/module.conf", at("module.conf"))])).toContain(variant);
  });

  test("I5: a library that wants an executable stack is told of when it is measured, and does not load", async () => {
    const { entry, from } = makeModule("stacked", ["-Wl,-rpath,/lab/lib", "-Wl,-z,execstack"]);
    const pin = measured(entry, from);
    expect(pin.warnings).toContainEqual({ path: entry, trait: "executable-stack" });
    await expect(load(pin, from, [file("/lab/module.conf", at("module.conf"))])).rejects.toThrow(/executable stack/);
  });
});
