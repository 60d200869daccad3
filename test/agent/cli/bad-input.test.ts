import { execFile } from "node:child_process";
import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cli, program } from "../../support/cli.ts";
import { type CliFixture, expectComplaint, makeCliFixture, PIN } from "../../support/cli-fixture.ts";

const run = promisify(execFile);
let made: CliFixture;
beforeAll(async () => {
  made = await makeCliFixture({ machine: true });
}, 120_000);
afterAll(async () => {
  await made?.[Symbol.asyncDispose]();
});
const at = (name: string) => made.at(name);

/** Word of the command line -> exit code for content that is no such document. */
const KEY_FILES = ["release.pem", "root.pem", "operator.pem"];
const inputs = Object.entries({
  "appraisal check": ["appraisal.json"],
  "audit verify": ["audit.log"],
  "cabinet list": ["cabinet.img"],
  "cabinet new": ["policy.json", "anchors.json", "release.json", "hsm-pin.json", "state.json"],
  "cabinet put": ["cabinet.img", "hsm-pin.json"],
  "cabinet verify": ["ek.der"],
  "ek show": ["ek.der", "ek-issuer.pem", "ek-anchors.json"],
  enrol: ["ek.der", "ek-issuer.pem", "ek-ca.pem"],
  "image predict": ["image/uki.efi"],
  "keys anchors": ["root.pub", "operator.pub"],
  "keys delegate": ["root.pem", "release.pub"],
  "keys public": ["release.pem"],
  measure: ["module/usr/lib/softhsm/libsofthsm2.so"],
  "policy check": ["policy.json"],
  "policy explain": ["policy.json"],
  "release predict": ["anchors.json", "policy.json"],
  "release diff": ["release.json", "anchors.json"],
  "release show": ["release.json", "anchors.json"],
  "release sign": ["prediction.json", "release.pem", "delegation.json", "anchors.json"],
  seal: ["ek.der", "ek-issuer.pem", "ek-ca.pem", "root.pub", "operator.pem"],
  verify: ["report.cbor", "release.json", "anchors.json", "enrolment.json", "appraisal.json"],
}).flatMap(([words, names]) => names.map((name) => [words, name] as const));

describe("I10: bad input", () => {
  const withInput = (words: string, name: string, replacement: string) => made.lineWith(words, name, replacement);

  test.each(inputs)(
    "%s refuses a missing %s, a directory, an empty file, a megabyte of noise, and half of a real one",
    async (words, name) => {
      const half = `half-${name.replaceAll("/", "-")}`;
      writeFileSync(at(half), readFileSync(at(name)).subarray(0, statSync(at(name)).size >> 1));
      for (const file of ["empty", "random", half]) chmodSync(at(file), 0o600);
      const malformed = KEY_FILES.includes(name) ? 4 : 3;
      for (const [replacement, exitCode] of [
        ["no-such-file", 4],
        ["directory", 4],
        ["random", malformed],
        ["empty", words === "audit verify" ? 0 : malformed],
        [half, malformed],
      ] as const) {
        const line = withInput(words, name, at(replacement));
        expect(line).toContain(at(replacement));
        const result = await cli(line, PIN);
        if (exitCode === 0) expect(result).toMatchObject({ code: 0, err: "" });
        else expectComplaint(result, exitCode, line.join(" "));
      }
    },
  );

  test("a device is no input file, however long it is willing to answer", async () => {
    expectComplaint(await cli(withInput("policy check", "policy.json", "/dev/zero")), 4, "/dev/zero");
    expectComplaint(await cli(["cabinet", "list", "/dev/zero"]), 3, "/dev/zero");
    expectComplaint(await cli(["audit", "verify", "/dev/zero"]), 4, "/dev/zero");
  });

  test("a file that is replaced keeps its mode, and a pipe is written into", async () => {
    writeFileSync(at("other-sealed.json"), "", { mode: 0o600 });
    expect((await cli(made.lineOf("seal"), PIN)).code).toBe(0);
    expect(statSync(at("other-sealed.json")).mode & 0o777).toBe(0o600);
    await run("mkfifo", [at("fifo")]);
    const reader = run("cat", [at("fifo")]);
    expect((await cli(made.lineOf("keys anchors").with(-1, at("fifo")))).code).toBe(0);
    expect((await reader).stdout).toBe(made.text("anchors.json"));
    expect(statSync(at("fifo")).isFIFO()).toBe(true);
  });

  test("a file that cannot be written exits 4 and leaves nothing behind", async () => {
    const line = made
      .lineOf("seal")
      .map((word) => (word === at("other-sealed.json") ? at("missing/sealed.json") : word));
    expectComplaint(await cli(line, PIN), 4, line.join(" "));
    expect(existsSync(at("missing"))).toBe(false);
  });

  test("the program itself says the same as the function, and ends with that exit code", async () => {
    for (const [args, exitCode] of [
      [["policy", "check", at("random")], 3],
      [["policy", "check", at("nothing")], 4],
      [["policy"], 2],
    ] as const) {
      const result = await program(args);
      expectComplaint(result, exitCode, args.join(" "));
      expect(result).toEqual(await cli(args));
    }
  });

  test("`agent` outside a guest says what is missing", async () => {
    expectComplaint(await program(["agent", "--config", at("nothing")]), 4, "no configuration");
    expectComplaint(await program(["agent", "--config", at("random")]), 3, "noise for a configuration");
    const result = await program(["agent", "--config", at("image/tree/etc/ironclaw/agent.json")]);
    expect(result.code).toBe(4);
    expect(result.err).not.toMatch(/\n {4}at /);
  });
});
