import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { measureClosure } from "../../attest/closure.ts";
import {
  type Bench,
  buildHostile,
  makeToken,
  openBench,
  SOFTHSM,
  TEST_PIN,
  type Token,
} from "../support/shim-fixture.ts";

// What was measured, beside what a real library has the real loader open.

const LOADER = "/lib64/ld-linux-x86-64.so.2";
const PLUGINS = "/usr/lib/x86_64-linux-gnu/pkcs11";
const LIBRARIES = "/lib/x86_64-linux-gnu";

let bench: Bench;
let program: string;
let token: Token;
beforeAll(() => {
  bench = openBench();
  program = buildHostile(bench, "objects", "program");
  token = makeToken(bench);
});
afterAll(() => bench.remove());

function measured(entry: string, also: readonly string[] = []) {
  return measureClosure({
    ...{ entry, also, machine: "x86_64" },
    readFile: (path) => (existsSync(path) ? new Uint8Array(readFileSync(path)) : null),
    realPath: (path) => realpathSync(path),
  });
}

/** The objects that are mapped after C_Initialize, as the loader of a private root without a cache finds them; the program not among them. */
function mapped(library: string): readonly string[] {
  const home = join(bench.directory, "home");
  mkdirSync(home, { recursive: true });
  const env = { ...token.environment, HOME: home, TPM2_PKCS11_STORE: home, TSS2_LOG: "all+NONE" };
  const { stdout } = spawnSync(LOADER, ["--inhibit-cache", program, library], { encoding: "utf8", env, input: "" });
  const lines = stdout.trim().split("\n");
  expect(lines.at(-1)).toMatch(/^rv 0x/);
  return lines.slice(0, -1).filter((path) => path !== program);
}

describe("the closure of a module of this machine holds what is mapped", () => {
  test.each([
    [SOFTHSM, [], []],
    [`${PLUGINS}/p11-kit-client.so`, [], []],
    [`${PLUGINS}/opensc-pkcs11.so`, ["libpcsclite.so.1"], [`${LIBRARIES}/libpcsclite.so.1`]],
    [`${PLUGINS}/libtpm2_pkcs11.so`, ["libtss2-tcti-device.so.0"], []],
  ])("I1: %s, with %j named", (library, also, later) => {
    const seen = mapped(library);
    expect(seen.length).toBeGreaterThan(2);
    const alone = measured(library);
    const named = measured(library, also);
    const missing = (closure: Readonly<Record<string, string>>) =>
      seen.filter((path) => path !== library && !Object.hasOwn(closure, path));
    expect(missing(named.closure)).toEqual([]);
    // what a closure cannot know of is what somebody in it opens by himself
    expect(missing(alone.closure)).toEqual(later);
    expect(alone.warnings.filter(({ trait }) => trait === "opens-later").length).toBeGreaterThan(0);
    expect(alone.warnings.filter(({ trait }) => trait !== "opens-later")).toEqual([]);
    for (const name of also) expect(Object.keys(named.closure)).toContain(`${LIBRARIES}/${name}`);
  });

  test("an OpenSSL provider is measured with what it needs, and adds nothing but itself to SoftHSM's closure", () => {
    const legacy = "/usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so";
    const [alone, named] = [measured(SOFTHSM), measured(SOFTHSM, [legacy])];
    expect(Object.keys(named.closure)).toEqual([...Object.keys(alone.closure), legacy].sort());
  });
});

/** Paths that a run opened, and that were there. */
function opened(library: string, environment: Readonly<Record<string, string>>): readonly string[] {
  const log = join(bench.directory, "strace");
  const flags = ["-f", "-qq", "-y", "-e", "trace=open,openat,openat2", "-o", log];
  const { stdout } = spawnSync("strace", [...flags, program, library], {
    ...{ encoding: "utf8", env: environment, input: `${TEST_PIN}\n` },
  });
  expect(stdout.trim().split("\n").at(-1)).toBe("rv 0x0");
  const lines = readFileSync(log, "utf8").split("\n");
  return [...new Set(lines.flatMap((line) => /"([^"]+)".* = \d+/.exec(line)?.[1] ?? []))].sort();
}

describe("what SoftHSM opens to log in and sign", () => {
  const unexplained = (environment: Readonly<Record<string, string>>, also: readonly string[]) => {
    const { closure } = measured(SOFTHSM, also);
    const explained = new Set([SOFTHSM, ...Object.keys(closure), ...Object.values(token.environment), program]);
    return opened(SOFTHSM, environment).filter(
      // the cache is this machine's: a private root has none
      (path) => !explained.has(path) && !path.startsWith(token.tokens) && path !== "/etc/ld.so.cache",
    );
  };

  test("I1: is its closure, its configuration, its tokens, and what OpenSSL reads by itself", () => {
    const allowed = ["/usr/lib/ssl/openssl.cnf", "/dev/urandom", "/dev/random"];
    expect(unexplained(token.environment, []).filter((path) => !allowed.includes(path))).toEqual([]);
  });

  test("I1: an OpenSSL configuration that loads a provider opens that provider, and naming both explains all", () => {
    const config = join(bench.directory, "openssl.cnf");
    const legacy = execFileSync("openssl", ["version", "-m"], { encoding: "utf8" }).replace(
      /^MODULESDIR: "(.*)"\n$/,
      "$1/legacy.so",
    );
    writeFileSync(
      config,
      "openssl_conf = all\n[all]\nproviders = list\n[list]\ndefault = on\nlegacy = on\n[on]\nactivate = 1\n",
    );
    const environment = { ...token.environment, OPENSSL_CONF: config };
    expect(unexplained(environment, []).filter((path) => path !== config)).toEqual([legacy]);
    expect(unexplained(environment, [legacy]).filter((path) => path !== config)).toEqual([]);
    expect(dirname(legacy)).toMatch(/ossl-modules$/);
  });
});
