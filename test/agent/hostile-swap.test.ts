import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ShimFile } from "../../agent/spawner-client.ts";
import { sha256Hex, toHex } from "../../policy/index.ts";
import { buildLab, type Lab, type LabBuild, type LabShim, MODULE, openLab, shimFiles } from "../support/hostile-lab.ts";
import { type Bench, buildHostile, openBench } from "../support/shim-fixture.ts";

const ROUNDS = 200;
const DEPENDENCY = "/lab/libdependency.so";
const CONFIG = "/lab/module.conf";
const isRoot = process.getuid?.() === 0;

let bench: Bench;
let build: LabBuild;
let lab: Lab;
let swapper: ChildProcess;
let files: readonly ShimFile[];
/** What each good content is, by digest: the letter that the library then says. */
const letters = new Map<string, string>();

const at = (name: string) => join(bench.directory, name);

/** Both contents of each file, and the file that is swapped between them. */
function makeContents(): readonly string[] {
  for (const letter of ["A", "B"]) {
    const flags = [`-DVERSION=${letter.charCodeAt(0)}`, "-fvisibility=hidden"];
    const libraries = [
      ["dependency", [...flags, "-DDEPENDENCY", "-Wl,-soname,libdependency.so"]],
      ["module", [...flags, at("dependency.A"), "-Wl,-rpath,$ORIGIN"]],
    ] as const;
    for (const [name, extra] of libraries) {
      copyFileSync(buildHostile(bench, "swapped", "module", extra), at(`${name}.${letter}`));
    }
    writeFileSync(at(`config.${letter}`), `${letter.repeat(31)}\n`);
  }
  return ["module", "dependency", "config"].flatMap((name) => {
    for (const letter of ["A", "B"]) letters.set(sha256Hex(readFileSync(at(`${name}.${letter}`))), letter);
    copyFileSync(at(`${name}.A`), at(name));
    return [at(name), at(`${name}.A`), at(`${name}.B`)];
  });
}

const swapped = (path: string, name: string, executable: boolean): ShimFile => ({
  ...{ path, source: { kind: "root", path: at(name) }, executable, writable: false },
});

beforeAll(async () => {
  bench = openBench();
  build = buildLab(bench);
  lab = openLab(build);
  const program = join(import.meta.dirname, "../support/hostile-swapper.ts");
  swapper = spawn(process.execPath, [program, ...makeContents()], { stdio: ["pipe", "ignore", "inherit"] });
  files = shimFiles(build, [
    swapped(MODULE, "module", true),
    swapped(DEPENDENCY, "dependency", true),
    swapped(CONFIG, "config", false),
  ]);
});
afterAll(async () => {
  swapper.stdin?.end();
  await once(swapper, "close");
  await lab.stop();
  bench.remove();
});

/** Digest of each file that the process has mapped as code, by the path that it has in its own root. */
function mappedCode(pid: number): Map<string, string> {
  const mapped = new Map<string, string>();
  for (const line of readFileSync(`/proc/${pid}/maps`, "utf8").split("\n")) {
    const [, range = "", path = ""] = /^(\S+) r-x\S* \S+ \S+ \S+ +(\/\S+)$/.exec(line) ?? [];
    if (path !== "") mapped.set(path, sha256Hex(readFileSync(`/proc/${pid}/map_files/${range}`)));
  }
  return mapped;
}

/** Digest of each file in the process's own root. */
function inRoot(pid: number): Map<string, string> {
  return new Map(files.map(({ path }) => [path, sha256Hex(readFileSync(`/proc/${pid}/root${path}`))]));
}

/** What the loaded library says of itself: its own letter, its dependency's, its configuration's. */
async function said(shim: LabShim): Promise<string> {
  const { description, slots } = await shim.call("load", MODULE);
  return `${description}${slots[0]?.label.charAt(0)}`;
}

/** What the kernel showed of a shim: its files, and what it had mapped as code, if it was loaded. Root alone may look. */
interface Seen {
  readonly reported: ReadonlyMap<string, string>;
  readonly inRoot: ReadonlyMap<string, string>;
  readonly mapped: ReadonlyMap<string, string> | null;
}
const seen: Seen[] = [];

test(`I1: in ${ROUNDS} shims filled while every file is swapped, what runs is what was reported`, {
  timeout: 300_000,
}, async () => {
  const loaded = new Map<string, number>();
  const count = (what: string) => loaded.set(what, (loaded.get(what) ?? 0) + 1);
  for (let round = 0; round < ROUNDS; round++) {
    const shim = await lab.start({ files });
    const { pid, digests } = shim.started;
    const reported = new Map(files.map(({ path }, index) => [path, toHex(digests[index]?.sha256 ?? new Uint8Array())]));
    const expected = [MODULE, DEPENDENCY, CONFIG].map((path) => letters.get(reported.get(path) ?? "") ?? "?").join("");
    // a mixture of two contents is no pinned file: the agent starts no such shim, and here it is not loaded
    const mixed = expected.includes("?");
    count(mixed ? "mixture" : expected);
    if (!mixed) expect(await said(shim)).toBe(expected);
    if (isRoot) seen.push({ reported, inRoot: inRoot(pid), mapped: mixed ? null : mappedCode(pid) });
    await shim.close();
  }
  console.log(
    `loaded, by letters of library, dependency and configuration: ${JSON.stringify(Object.fromEntries(loaded))}`,
  );
  // the swaps did happen meanwhile
  expect([...loaded.keys()].filter((key) => key.startsWith("A") || key.startsWith("B")).length).toBeGreaterThan(1);
});

test.skipIf(!isRoot)("I1: in each of them every file, and every page of code, had the digest that was reported", () => {
  expect(seen).toHaveLength(ROUNDS);
  expect(seen.filter(({ mapped }) => mapped !== null).length).toBeGreaterThan(0);
  for (const { reported, inRoot: found, mapped } of seen) {
    expect(found).toEqual(reported);
    if (mapped === null) continue;
    expect([...mapped.keys()]).toEqual(expect.arrayContaining(["/shim", MODULE, DEPENDENCY]));
    for (const [path, digest] of mapped) expect(digest, path).toBe(reported.get(path));
  }
});
