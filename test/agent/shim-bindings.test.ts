import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Bench, buildHostile, NATIVE_DIRECTORY, openBench, SOFTHSM } from "../support/shim-fixture.ts";

const LIBCRYPTO = "libcrypto.so.3";
let bench: Bench;
let program: string;
let impostor: string;
let shared: readonly string[];

beforeAll(() => {
  bench = openBench();
  program = buildHostile(bench, "bindings", "program");
  const wanted = new Set(symbols(SOFTHSM, "--undefined-only"));
  shared = symbols(libcryptoPath(), "--defined-only").filter((name) => wanted.has(name));
  impostor = buildImpostor(shared);
});

afterAll(() => bench.remove());

function symbols(path: string, which: string): string[] {
  const listing = execFileSync("nm", ["-D", which, "--format=posix", path], { encoding: "utf8" });
  return listing
    .split("\n")
    .map((line) => (line.split(" ")[0] ?? "").replace(/@.*$/, ""))
    .filter((name) => name !== "");
}

function libcryptoPath(): string {
  const path = /libcrypto\.so\.3 => (\S+)/.exec(execFileSync("ldd", [SOFTHSM], { encoding: "utf8" }))?.[1];
  if (path === undefined) throw new Error("libcrypto not found");
  return path;
}

/** An object that exports the same names and does nothing. */
function buildImpostor(names: readonly string[]): string {
  const source = join(bench.directory, "impostor.s");
  const output = join(bench.directory, "impostor.so");
  writeFileSync(
    source,
    `.text\n${names.map((name) => `.globl ${name}\n.type ${name},@function\n${name}: xor %eax,%eax\nret\n`).join("")}`,
  );
  execFileSync("gcc", ["-shared", "-nostdlib", "-o", output, source]);
  return output;
}

/** Which object each of SoftHSM's OpenSSL symbols binds to, as the loader reports it. */
function bindings(name: string, args: readonly string[]): Map<string, string> {
  const log = join(bench.directory, name);
  const env = { LD_DEBUG: "bindings", LD_DEBUG_OUTPUT: log, LD_PRELOAD: impostor, LD_BIND_NOW: "1" };
  // without the flag the impostor may crash constructors: only the loader's log counts
  spawnSync(program, [SOFTHSM, ...args], { env });
  const lines = readdirSync(bench.directory)
    .filter((file) => file.startsWith(`${name}.`))
    .flatMap((file) => readFileSync(join(bench.directory, file), "utf8").split("\n"));
  const found = new Map<string, string>();
  for (const line of lines) {
    const [, from = "", to = "", symbol = ""] =
      /binding file (\S+) \[0\] to (\S+) \[0\]: normal symbol `([^']+)'/.exec(line) ?? [];
    if (from === SOFTHSM && shared.includes(symbol)) found.set(symbol, to);
  }
  return found;
}

test("I1: with an impostor in the process every OpenSSL symbol of the library still binds to libcrypto", () => {
  const bound = bindings("deep", []);
  expect(shared.length).toBeGreaterThan(200);
  expect(bound.size).toBe(shared.length);
  expect([...bound.values()].filter((path) => !path.endsWith(LIBCRYPTO))).toEqual([]);
});

test("I1: the impostor does take the symbols when the library is loaded without RTLD_DEEPBIND", () => {
  const bound = bindings("shallow", ["shallow"]);
  expect(bound.size).toBe(shared.length);
  expect([...bound.values()].filter((path) => path !== impostor)).toEqual([]);
});

test("I1: the shim's program exports nothing and needs only libc", () => {
  const shim = join(NATIVE_DIRECTORY, "shim");
  const exported = symbols(shim, "--defined-only");
  expect(exported).toEqual([]);
  const dynamic = execFileSync("readelf", ["-d", shim], { encoding: "utf8" });
  expect([...dynamic.matchAll(/NEEDED.*\[(.*)\]/g)].map((match) => match[1])).toEqual(["libc.so.6"]);
});
