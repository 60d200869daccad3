import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sha256Hex } from "../../../policy/index.ts";
import { cli } from "../../support/cli.ts";
import { NATIVE_DIRECTORY, SOFTHSM } from "../../support/shim-fixture.ts";

const LEGACY = "/usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so";
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(realpathSync(tmpdir()), "measure-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const at = (...parts: readonly string[]) => join(directory, ...parts);

function compile(name: string, source: string, ...flags: readonly string[]): string {
  mkdirSync(dirname(at(name)), { recursive: true });
  writeFileSync(at("source.c"), source);
  execFileSync("gcc", ["-shared", "-fPIC", "-nostdlib", "-o", at(name), at("source.c"), ...flags]);
  return at(name);
}

async function fragment(...args: readonly string[]): Promise<Record<string, unknown>> {
  const result = await cli(["measure", ...args, "--json"]);
  expect(result).toMatchObject({ code: 0, err: "" });
  return JSON.parse(result.out);
}

describe("ironclaw measure", () => {
  test("I1: pins what is opened later with what it needs, configuration and environment", async () => {
    writeFileSync(at("m.conf"), "x");
    const alone = await fragment(SOFTHSM);
    const named = await fragment(
      ...[
        SOFTHSM,
        "--also",
        LEGACY,
        "--config",
        at("m.conf"),
        "--environment",
        `M=${at("m.conf")}`,
        "--environment",
        "E=a=b",
      ],
    );
    expect(named).toEqual({
      ...alone,
      closure: { ...(alone["closure"] as Record<string, string>), [LEGACY]: sha256Hex(readFileSync(LEGACY)) },
      config: { [at("m.conf")]: sha256Hex(Buffer.from("x")) },
      environment: { M: at("m.conf"), E: "a=b" },
    });
  });

  test("I1: runs nothing of what it measures", async () => {
    const ran = at("ran");
    const source = `__attribute__((constructor)) static void run(void) {
      static const char path[] = "${ran}"; long result;
      __asm__ volatile("syscall" : "=a"(result) : "a"(85L), "D"(path), "S"(0600L) : "rcx", "r11", "memory"); }`;
    const library = compile("runs.so", source);
    execFileSync("/lib64/ld-linux-x86-64.so.2", ["--preload", library, "/bin/true"]);
    expect(existsSync(ran)).toBe(true);
    rmSync(ran);
    await fragment(library);
    expect(existsSync(ran)).toBe(false);
  });

  test("a library behind a symbolic link is pinned under the path that was given", async () => {
    const library = compile("real.so", "int x;");
    symlinkSync(library, at("link.so"));
    expect(await fragment(at("link.so"))).toMatchObject({
      path: at("link.so"),
      sha256: sha256Hex(readFileSync(library)),
    });
  });

  test("for people: the digests, who can open more, and warnings beside them", async () => {
    const library = compile("stacked.so", "int x;", "-Wl,-z,execstack");
    const result = await cli(["measure", library]);
    expect(result.code).toBe(0);
    expect(result.err).toBe(`warning: ${library}: wants an executable stack: no profile lets it load\n`);
    const softhsm = await cli(["measure", SOFTHSM]);
    expect(softhsm.err).toBe("");
    expect(softhsm.out).toMatch(/^# can open more at run time \(see --also, --config\): .*libcrypto\.so\.3$/m);
  });

  test.each([
    ["a variable without a value", ["--environment", "NAME"], 2, /--environment: expected NAME=VALUE/],
    ["a variable twice", ["--environment", "A=1", "--environment", "A=2"], 2, /expected each name once/],
    [
      "a class of processors that is none",
      ["--cpu", "486"],
      2,
      /--cpu: expected x86-64-v2 or x86-64-v3 or x86-64-v4, got 486/,
    ],
    ["configuration that is not there", ["--config", "/no/such"], 4, /\/no\/such/],
    ["a plug-in that is not there", ["--also", "libno-such.so"], 3, /needs libno-such\.so/],
    ["a plug-in that is no library", ["--also", "/etc/passwd"], 3, /\/etc\/passwd/],
  ])("%s is refused", async (_, args, code, message) => {
    const result = await cli(["measure", SOFTHSM, ...args]);
    expect(result.err).toMatch(message);
    expect(result.code).toBe(code);
  });

  test.each([
    ["of 32 bits", 4, 1],
    ["for another machine", 18, 183],
  ])("a library %s is refused", async (_, offset, value) => {
    const bytes = readFileSync(SOFTHSM);
    bytes[offset] = value;
    writeFileSync(at("foreign.so"), bytes);
    const result = await cli(["measure", at("foreign.so")]);
    expect(result.code).toBe(3);
    expect(result.err).toMatch(/foreign\.so/);
  });

  test("I1: an ELF file of the module that nothing needs and nobody named is refused", async () => {
    compile("module/lab/m.so", "int x;");
    compile("module/lab/glibc-hwcaps/x86-64-v3/m.so", "int y;");
    mkdirSync(at("image/tree/usr/lib/ironclaw"), { recursive: true });
    mkdirSync(at("image/tree/lib64"), { recursive: true });
    mkdirSync(at("image/tree/lib/x86_64-linux-gnu"), { recursive: true });
    copyFileSync(join(NATIVE_DIRECTORY, "shim"), at("image/tree/usr/lib/ironclaw/shim"));
    for (const path of ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"])
      copyFileSync(path, at(`image/tree${path}`));
    const order = ["measure", "/lab/m.so", "--image", at("image"), "--module", at("module")];
    const refused = await cli(order);
    expect(refused.code).toBe(4);
    expect(refused.err).toMatch(/glibc-hwcaps\/x86-64-v3\/m\.so.*expected no ELF file but/s);
    const plugin = "/lab/glibc-hwcaps/x86-64-v3/m.so";
    const named = await cli([...order, "--also", plugin, "--json"]);
    expect(JSON.parse(named.out).closure).toHaveProperty([plugin]);
  });
});
