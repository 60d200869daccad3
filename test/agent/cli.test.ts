import { execFile, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openAudit } from "../../agent/audit.ts";
import { type Command, parseCommandLine, UsageError } from "../../agent/cli/command.ts";
import { COMMANDS } from "../../agent/cli/ironclaw.ts";
import { oneLine, plainText, renderJson } from "../../agent/cli/output.ts";
import { type CliResult, cli, program } from "../support/cli.ts";
import { runWalkThrough, WALK_THROUGH_PIN, type WalkThrough } from "../support/walk-through.ts";

const run = promisify(execFile);
const project = resolve(import.meta.dirname, "../..");

let walk: WalkThrough;
const at = (name: string) => join(walk.directory, name);
const text = (name: string) => readFileSync(at(name), "utf8");
const json = (name: string) => JSON.parse(text(name));
const nonce = () => text("nonce").trim();

/** A good command line for each command that reads files; the bad-input tests change one word of it. */
const commandLines: Readonly<Record<string, () => string[]>> = {
  "audit verify": () => [at("audit.log")],
  "cabinet list": () => [at("cabinet.img")],
  "cabinet new": () => [
    ...[at("other.img"), "--name", "vm-1", "--module", at("module"), "--policy", at("policy.json")],
    ...["--anchors", at("anchors.json"), "--release", at("release.json"), "--sealed", at("sealed.json")],
  ],
  "cabinet put": () => [at("cabinet.img"), "sealed", at("sealed.json")],
  enrol: () => ["vm-1", "--machine", at("machine"), ...ek(), "--out", at("other-enrolment.json")],
  "image predict": () => [at("image/uki.efi")],
  "keys anchors": () => ["--root", at("root.pub"), "--operator", at("operator.pub"), "--out", at("other-anchors.json")],
  measure: () => [at("module/usr/lib/softhsm/libsofthsm2.so")],
  "policy check": () => [at("policy.json")],
  "policy explain": () => [
    ...[at("policy.json"), "--caller", "release-signer", "--key", "release-ec", "--mechanism", "CKM_ECDSA"],
  ],
  "release predict": () => [
    ...["--image", at("image"), "--anchors", at("anchors.json"), "--policy", at("policy.json")],
  ],
  "release show": () => [at("release.json"), "--anchors", at("anchors.json")],
  "release sign": () => [
    ...[at("prediction.json"), "--name", "second", "--not-after", "2099-01-01T00:00:00Z"],
    ...["--key", at("release.pem"), "--root", at("root.pem"), "--out", at("other-release.json")],
  ],
  report: () => ["--machine", at("machine"), "--nonce", "ab".repeat(32), "--out", at("other-report.cbor")],
  seal: () => [
    ...[...ek(), "--root", at("root.pub"), "--operator", at("operator.pem")],
    ...["--token-serial", "1f00aa", "--out", at("other-sealed.json")],
  ],
  verify: () => [
    ...[at("report.cbor"), "--nonce", nonce(), "--reference", at("release.json"), "--anchors", at("anchors.json")],
    ...["--enrolment", at("enrolment.json"), "--policy", at("appraisal.json")],
  ],
};
const ek = () => ["--ek-certificate", at("ek.der"), "--issuer", at("ek-issuer.pem"), "--ca", at("ek-ca.pem")];
const lineOf = (words: string) => [...words.split(" "), ...(commandLines[words]?.() ?? [])];
const PIN = "4711-never-shown";

/** Exactly what a refused command may print: one line, and perhaps a hint. */
function expectComplaint({ code, out, err }: CliResult, exitCode: number, what: string): void {
  expect(err, what).toMatch(/^ironclaw: [^\n]+ \([A-Z][A-Z_]+\)\n(?:hint: [^\n]+\n)?$/);
  expect(err, what).toMatch(/expected|finding/);
  expect(err, what).not.toContain("ERR_INTERNAL");
  expect(err + out, what).not.toMatch(/\n {4}at /);
  expect(err + out, what).not.toContain(PIN);
  expect(code, `${what}: ${err}`).toBe(exitCode);
}

beforeAll(async () => {
  walk = await runWalkThrough();
  writeFileSync(at("random"), randomBytes(1 << 20));
  writeFileSync(at("empty"), "");
  mkdirSync(at("directory"));
  const log = openAudit({ path: at("audit.log"), now: () => 0, anchor: null });
  for (const reason of ["first", "second", "a third one, which is the longest of them all"]) {
    const entry = {
      caller: null,
      scope: "s",
      key: null,
      mechanism: null,
      operation: "connect",
      inputDigest: null,
    } as const;
    await log.append({ ...entry, decision: "deny", step: "caller", reason }, "written");
  }
  log.close();
}, 180_000);
afterAll(async () => {
  await walk?.[Symbol.asyncDispose]();
});

describe("the walk-through of the README", () => {
  test("I9: it ends in an affirming verdict over every event that the release predicted", () => {
    expect(walk.outputs.at(-1)).toMatch(/^vm-1: affirming \(launch serving, software-tpm, release first\)$/m);
    expect(walk.outputs.at(-1)).not.toContain("<- differs");
  });

  test("I4: the PIN is sealed and in no file and no output; private keys are their owner's alone", async () => {
    expect(existsSync(at("pin"))).toBe(false);
    expect(walk.everything).not.toContain(WALK_THROUGH_PIN);
    const found = await run("grep", ["-rlaF", WALK_THROUGH_PIN, walk.directory]).catch(({ code }) => ({
      stdout: code,
    }));
    expect(found.stdout).toBe(1); // grep found nothing
    for (const name of ["root.pem", "release.pem", "operator.pem"]) expect(statSync(at(name)).mode & 0o777).toBe(0o600);
    expect(walk.everything).not.toContain("PRIVATE KEY");
  });

  test("I1: what `measure` printed is what the policy pins", () => {
    const { environment: _none, ...measured } = json("module.json");
    expect(json("policy.json").module).toMatchObject(measured);
    expect(Object.keys(measured.closure)).toContain("/lib64/ld-linux-x86-64.so.2");
    expect(Object.keys(measured.closure)).not.toContain("/shim");
  });
});

describe("with --json", () => {
  const facts: Readonly<Record<string, object>> = {
    "audit verify": { ok: true, seq: 3, hash: expect.stringMatching(/^[0-9a-f]{64}$/) },
    "cabinet list": { slots: expect.arrayContaining([expect.objectContaining({ slot: "sealed" })]) },
    "cabinet new": { file: expect.stringMatching(/other\.img$/) },
    "cabinet put": { file: expect.stringMatching(/cabinet\.img$/) },
    enrol: { name: "vm-1", assurance: "software-tpm", sha256: expect.stringMatching(/^[0-9a-f]{64}$/) },
    "image predict": { sha256: { 12: "0".repeat(64) } },
    "keys anchors": { releaseRoot: expect.any(String), operator: expect.any(String), sha256: expect.any(String) },
    measure: { path: expect.stringMatching(/libsofthsm2\.so$/), closure: expect.any(Object) },
    "policy check": { ok: true, serial: 7 },
    "policy explain": { allow: true, scopes: expect.any(Array) },
    "release show": { verified: true, name: "first", image: { variant: "demo" } },
    "release sign": { name: "second", file: expect.stringMatching(/other-release\.json$/), sha256: expect.any(String) },
    report: { bank: "sha256", nonce: "ab".repeat(32), bytes: expect.any(Number), sha256: expect.any(String) },
    seal: { name: "hsm-pin", generation: 1, tokenSerial: "1f00aa", sha256: expect.any(String) },
    verify: { tier: "affirming", machine: "vm-1", findings: [] },
  };

  test.each(Object.keys(facts))("%s prints one JSON document with its facts, and nothing else", async (words) => {
    const { code, out, err } = await cli([...lineOf(words), "--json"], PIN);
    expect(err).toBe("");
    expect(JSON.parse(out)).toMatchObject(facts[words] ?? {});
    expect(code).toBe(0);
    expect(out).not.toContain(PIN);
  });

  test("a written file has the digest that was printed", async () => {
    const { out } = await cli([...lineOf("seal"), "--json"], PIN);
    const { file, sha256 } = JSON.parse(out);
    expect((await run("sha256sum", [file])).stdout.slice(0, 64)).toBe(sha256);
  });

  test("`release predict` prints what `release sign` reads", async () => {
    const { code, out } = await cli(lineOf("release predict"));
    expect(code).toBe(0);
    expect(JSON.parse(out)).toEqual(json("prediction.json"));
  });

  test("every command has it, or is one that prints no answer", async () => {
    for (const [words, load] of Object.entries(COMMANDS)) {
      const { command } = await load();
      if (words !== "agent" && words !== "release predict") expect(command.options["json"], words).toBeDefined();
    }
  });
});

describe("help", () => {
  test("`--help` of each command exits 0, explains every option, and its examples parse", async () => {
    for (const [words, load] of Object.entries(COMMANDS)) {
      const { command } = await load();
      const { code, out } = await cli([...words.split(" "), "--help"]);
      expect(code).toBe(0);
      for (const name of Object.keys(command.options)) expect(out, words).toContain(`--${name}`);
      expect(command.examples.length, words).toBeGreaterThan(0);
      for (const example of command.examples) {
        const [, call = ""] = /ironclaw (.*?)(?: <.*)?$/.exec(example) ?? [];
        const given = call.replace("$(openssl rand -hex 32)", "00").split(" ").slice(words.split(" ").length);
        expect(() => parseCommandLine(command, given), example).not.toThrow();
      }
    }
  });

  test("the list names every command and the exit codes; without arguments too", async () => {
    for (const args of [["--help"], ["-h"], []]) {
      const { code, out } = await cli(args);
      expect(code).toBe(0);
      for (const words of Object.keys(COMMANDS)) expect(out).toContain(`  ${words} `);
      expect(out).toContain("3 malformed or unverifiable input");
    }
  });

  test("a reader that closes the pipe early is no failure", async () => {
    const child = spawn(process.execPath, [join(project, "agent/cli/ironclaw.ts"), "--help"], { stdio: "pipe" });
    let err = "";
    child.stderr.on("data", (chunk) => {
      err += chunk;
    });
    child.stdout.destroy();
    const [code] = await once(child, "close");
    expect({ code, err }).toEqual({ code: 0, err: "" });
  });
});

describe("usage", () => {
  test.each([
    ["an unknown command", ["frobnicate", "now"], /expected one of those/],
    ["the name of an object's method", ["constructor"], /expected one of those/],
    ["an unknown option", ["policy", "check", "x", "--frobnicate"], /frobnicate/],
    ["a missing argument", ["policy", "check"], /expected FILE, got none/],
    ["one argument too many", ["policy", "check", "a", "b"], /expected FILE, got 2 /],
    ["a missing option", ["report", "--out", "x", "--nonce", "00"], /--machine DIR: expected a value, got none/],
    ["an option twice", ["release", "show", "r", "--anchors", "a", "--anchors", "b"], /expected it once, got 2 times/],
    [
      "a nonce of another size",
      ["report", "--machine", "m", "--nonce", "00", "--out", "o"],
      /--nonce: expected 32 bytes/,
    ],
    ["a nonce in capitals", ["report", "--machine", "m", "--nonce", "AB".repeat(32), "--out", "o"], /lower-case/],
    [
      "a bank that there is none of",
      ["report", "--machine", "m", "--nonce", "ab".repeat(32), "--bank", "sha1", "--out", "o"],
      /sha256 or sha384, got sha1/,
    ],
    ["a key name without .pem", ["keys", "new", "root"], /ends in \.pem, got root/],
    [
      "a key kind that there is none of",
      ["keys", "new", "root.pem", "--kind", "ed25519"],
      /p256 or rsa2048, got ed25519/,
    ],
    [
      "an image variant that there is none of",
      ["image", "build", "--variant", "x", "--out", "o"],
      /demo or dev, got x/,
    ],
    ["an audit head of another form", ["audit", "verify", "x", "--head", "1:ab"], /64 hexadecimal/],
    ["--module without --image", ["measure", "x.so", "--module", "m"], /expected --image too/],
  ] as const)("%s exits 2 and points to the help", async (_, args, message) => {
    const result = await cli(args);
    expect(result.err).toMatch(message);
    expect(result.err).toMatch(/\(ERR_USAGE\)/);
    expect(result.code).toBe(2);
    if (Object.keys(COMMANDS).some((words) => args.join(" ").startsWith(words))) expect(result.err).toMatch(/hint: /);
  });

  test.each([
    ["release sign", "--not-after", "tomorrow"],
    ["release sign", "--not-after", "2001-01-01T00:00:00Z"],
    ["seal", "--generation", "0"],
    ["seal", "--generation", "1e3"],
    ["cabinet new", "--name", "a/b"],
    ["cabinet put", "sealed", "nosuchslot"],
    ["enrol", "vm-1", "../vm"],
    ["policy explain", "--operation", "export"],
    ["enrol", "--assurance", "hardware"],
  ])("%s with %s %s exits 2", async (words, option, value) => {
    const line = lineOf(words);
    const place = line.indexOf(option);
    if (option.startsWith("--") && place < 0) line.push(option, value);
    else line[option.startsWith("--") ? place + 1 : place] = value;
    expectComplaint(await cli(line, PIN), 2, line.join(" "));
  });

  test("I10: whatever the arguments are, parsing gives them or a UsageError", async () => {
    const commands = await Promise.all(Object.values(COMMANDS).map(async (load) => (await load()).command));
    const word = fc.oneof(
      fc.string(),
      fc.constantFrom(
        "--json",
        "--",
        "-h",
        "--out",
        "--out=",
        "--__proto__",
        "--constructor=1",
        "-",
        "--bank",
        "--no-json",
      ),
    );
    fc.assert(
      fc.property(fc.constantFrom(...commands), fc.array(word, { maxLength: 8 }), (command, args) => {
        try {
          parseCommandLine(command, args);
        } catch (error) {
          expect(error).toBeInstanceOf(UsageError);
          expect(error).toMatchObject({ exitCode: 2 });
        }
      }),
      { numRuns: 2000 },
    );
  });

  test("every value comes out as it was given, in whatever order the options stand", () => {
    const options = {
      out: { type: "string", value: "FILE", help: "", required: true },
      json: { type: "boolean", help: "" },
    } as const;
    const command: Command = { summary: "", positionals: ["A"], options, examples: [], run: async () => 0 };
    fc.assert(
      fc.property(fc.string(), fc.string(), fc.boolean(), fc.boolean(), (positional, value, flag, first) => {
        const given = [`--out=${value}`, ...(flag ? ["--json"] : [])];
        const input = parseCommandLine(command, [...(first ? given : given.reverse()), "--", positional]);
        expect(input.positional(0)).toBe(positional);
        expect(input.text("out")).toBe(value);
        expect(input.flag("json")).toBe(flag);
      }),
    );
  });
});

/** Word of the command line -> exit code for content that is no such document. */
const KEY_FILES = ["release.pem", "root.pem", "operator.pem"];
const inputs = Object.entries({
  "audit verify": ["audit.log"],
  "cabinet list": ["cabinet.img"],
  "cabinet new": ["policy.json", "anchors.json", "release.json", "sealed.json"],
  "cabinet put": ["cabinet.img", "sealed.json"],
  enrol: ["ek.der", "ek-issuer.pem", "ek-ca.pem"],
  "image predict": ["image/uki.efi"],
  "keys anchors": ["root.pub", "operator.pub"],
  measure: ["module/usr/lib/softhsm/libsofthsm2.so"],
  "policy check": ["policy.json"],
  "policy explain": ["policy.json"],
  "release predict": ["anchors.json", "policy.json"],
  "release show": ["release.json", "anchors.json"],
  "release sign": ["prediction.json", "release.pem", "root.pem"],
  seal: ["ek.der", "ek-issuer.pem", "ek-ca.pem", "root.pub", "operator.pem"],
  verify: ["report.cbor", "release.json", "anchors.json", "enrolment.json", "appraisal.json"],
}).flatMap(([words, names]) => names.map((name) => [words, name] as const));

describe("I10: bad input", () => {
  const withInput = (words: string, name: string, replacement: string) =>
    lineOf(words).map((word) => (word === at(name) ? replacement : word));

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
    chmodSync(at("other-sealed.json"), 0o600);
    expect((await cli(lineOf("seal"), PIN)).code).toBe(0);
    expect(statSync(at("other-sealed.json")).mode & 0o777).toBe(0o600);
    await run("mkfifo", [at("fifo")]);
    const reader = run("cat", [at("fifo")]);
    expect((await cli(lineOf("keys anchors").with(-1, at("fifo")))).code).toBe(0);
    expect((await reader).stdout).toBe(text("anchors.json"));
    expect(statSync(at("fifo")).isFIFO()).toBe(true);
  });

  test("a file that cannot be written exits 4 and leaves nothing behind", async () => {
    const line = lineOf("seal").map((word) => (word === at("other-sealed.json") ? at("missing/sealed.json") : word));
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

describe("documents that are not what they should be", () => {
  const changed = (name: string, change: (document: string) => string): string => {
    writeFileSync(at("changed"), change(text(name)));
    return at("changed");
  };

  test.each([
    ["an unknown field", (policy: string) => policy.replace("{", '{"wildcard": true,'), /ERR_POLICY_INVALID/],
    ["a duplicate key", (policy: string) => policy.replace('"serial": 7', '"serial": 7, "serial": 8'), /"serial"/],
    [
      "a scope with an unknown key",
      (policy: string) => policy.replace('"key": "release-ec"', '"key": "nobody"'),
      /unknown key nobody/,
    ],
    ["another version", (policy: string) => policy.replace('"version": 1', '"version": 2'), /version/],
  ])("I6: a policy with %s is refused, by name", async (_, change, message) => {
    const result = await cli(["policy", "check", changed("policy.json", change)]);
    expectComplaint(result, 3, "policy check");
    expect(result.err).toMatch(message);
  });

  test("I6: `policy explain` says no with the step that failed, and exits 1", async () => {
    for (const [option, value, reason] of [
      ["--caller", "nobody", /no, caller: the peer could not be identified/],
      ["--caller", "backup", /no, caller: uid 2003 is not release-signer/],
      ["--key", "vault", /no, key: vault is not visible/],
      ["--mechanism", "CKM_AES_CBC", /no, mechanism: CKM_AES_CBC is not allowed/],
    ] as const) {
      const line = lineOf("policy explain");
      line[line.indexOf(option) + 1] = value;
      const { code, out } = await cli(line);
      expect(code).toBe(1);
      expect(out).toMatch(/^denied\n/);
      expect(out).toMatch(reason);
    }
    const decrypt = await cli([...lineOf("policy explain"), "--operation", "decrypt"]);
    expect(decrypt).toMatchObject({ code: 1, out: expect.stringContaining("does sign, not decrypt") });
    const pss = lineOf("policy explain").map(
      (word) => ({ CKM_ECDSA: "CKM_RSA_PKCS_PSS", "release-ec": "release-rsa" })[word] ?? word,
    );
    expect(await cli(pss)).toMatchObject({ code: 0, out: expect.stringContaining("rsa-signing/CKM_RSA_PKCS_PSS") });
  });

  test("I9: a report for another nonce, another bank or another machine does not verify", async () => {
    const line = lineOf("verify");
    for (const [option, value, reason] of [
      ["--nonce", "00".repeat(32), /extra-data/],
      ["--bank", "sha384", /bank|selection/],
    ] as const) {
      const other = option === "--bank" ? [...line, option, value] : line.with(line.indexOf(option) + 1, value);
      const result = await cli(other);
      expectComplaint(result, 3, other.join(" "));
      expect(result.err).toMatch(reason);
    }
  });

  test("I9: the reasons of a refused report are all there with --explain and with --json", async () => {
    const line = lineOf("verify").map((word) => (word === nonce() ? "00".repeat(32) : word));
    expect((await cli([...line, "--explain"])).out).toMatch(/refused {2}extra-data/);
    const { out, code } = await cli([...line, "--json"]);
    expect(JSON.parse(out)).toMatchObject({
      error: "ERR_EVIDENCE_REFUSED",
      reasons: [{ code: "extra-data" }, { code: "claim", item: "eat_nonce", expected: "00".repeat(32) }],
    });
    expect(code).toBe(3);
  });

  test("I9: one bit of the report changed is refused, wherever it is", async () => {
    const report = readFileSync(at("report.cbor"));
    for (const place of [0, 1, 40, 400, report.length >> 1, report.length - 100, report.length - 1]) {
      const bytes = Buffer.from(report);
      bytes[place] = (bytes[place] ?? 0) ^ 1;
      writeFileSync(at("changed"), bytes);
      const line = lineOf("verify").map((word) => (word === at("report.cbor") ? at("changed") : word));
      expectComplaint(await cli(line), 3, `bit ${place}`);
    }
  });

  test("I9: the default appraisal policy contraindicates a demo image on a software TPM, and exits 1", async () => {
    const line = lineOf("verify").slice(0, -2);
    const { code, out } = await cli(line);
    expect(code).toBe(1);
    expect(out).toMatch(/^vm-1: contraindicated/);
    expect(out).toMatch(/image-variant/);
    expect(out).toMatch(/assurance class: expected provider-ek or better, got software-tpm/);
  });

  test("I9: a release of another root, or under other anchors, is refused", async () => {
    for (const name of ["evil-root.pem", "evil-release.pem"]) await cli(["keys", "new", at(name)]);
    const sign = lineOf("release sign").map(
      (word) => ({ [at("root.pem")]: at("evil-root.pem"), [at("release.pem")]: at("evil-release.pem") })[word] ?? word,
    );
    expect((await cli(sign)).code).toBe(0);
    expectComplaint(
      await cli(["release", "show", at("other-release.json"), "--anchors", at("anchors.json")]),
      3,
      "release",
    );
    const anchors = ["--root", at("evil-root.pub"), "--operator", at("operator.pub"), "--out", at("evil-anchors.json")];
    expect((await cli(["keys", "anchors", ...anchors])).code).toBe(0);
    const line = lineOf("verify").map((word) => (word === at("anchors.json") ? at("evil-anchors.json") : word));
    expectComplaint(await cli(line), 3, "verify under other anchors");
    const cabinet = lineOf("cabinet new").map((word) => (word === at("anchors.json") ? at("evil-anchors.json") : word));
    expectComplaint(await cli(cabinet), 3, "cabinet under other anchors");
  });

  test("I2: values that no release may approve are not signed, and that is a refusal", async () => {
    const prediction = json("prediction.json");
    prediction.pcrs.sha256["13"] = "00".repeat(32);
    writeFileSync(at("changed"), JSON.stringify(prediction));
    const line = lineOf("release sign").map((word) => (word === at("prediction.json") ? at("changed") : word));
    expectComplaint(await cli(line), 1, "a zero agent PCR");
  });

  test("I2: an image whose kernel is not that of its manifest is not predicted", async () => {
    cpSync(at("image"), at("image2"), { recursive: true });
    writeFileSync(at("image2/uki.efi"), readFileSync(at("image/uki.efi")).fill(1, 600, 601));
    const line = lineOf("release predict").map((word) => (word === at("image") ? at("image2") : word));
    expectComplaint(await cli(line), 3, "another kernel");
    expectComplaint(await cli(line.map((word) => (word === at("image2") ? at("directory") : word))), 4, "no image");
  });

  test("a key file that others can read is not used, and the hint says how to repair it", async () => {
    cpSync(at("operator.pem"), at("shared.pem"));
    chmodSync(at("shared.pem"), 0o644);
    const line = lineOf("seal").map((word) => (word === at("operator.pem") ? at("shared.pem") : word));
    const result = await cli(line, PIN);
    expectComplaint(result, 4, "mode 0644");
    expect(result.err).toMatch(/expected mode 0600, got 0644 \(ERR_KEY_FILE\)\nhint: chmod 600 /);
  });

  test("a key is never overwritten", async () => {
    const before = text("root.pem");
    expectComplaint(await cli(["keys", "new", at("root.pem")]), 4, "keys new");
    expect(text("root.pem")).toBe(before);
  });

  test("a cabinet with one changed byte is refused; a replaced document is checked against the anchors first", async () => {
    const bytes = readFileSync(at("cabinet.img"));
    const place = bytes.indexOf("application/vnd.ironclaw");
    bytes[place] = 0x41;
    writeFileSync(at("changed"), bytes);
    const result = await cli(["cabinet", "list", at("changed")]);
    expectComplaint(result, 3, "cabinet list");
    expect(result.err).toMatch(/ERR_CABINET_CHECKSUM/);
    const before = readFileSync(at("cabinet.img"));
    expectComplaint(await cli(["cabinet", "put", at("cabinet.img"), "sealed", at("release.json")]), 3, "cabinet put");
    expect(readFileSync(at("cabinet.img")).equals(before)).toBe(true);
  });

  test("I8: a log that does not reach the head of a report, or ends in half a record, is refused", async () => {
    const { out } = await cli(["audit", "verify", at("audit.log"), "--json"]);
    const { seq, hash } = JSON.parse(out);
    expect((await cli(["audit", "verify", at("audit.log"), "--head", `${seq}:${hash}`])).code).toBe(0);
    const [first = ""] = text("audit.log").split("\n");
    writeFileSync(at("changed"), `${first}\n`);
    expect((await cli(["audit", "verify", at("changed")])).code).toBe(0);
    expectComplaint(await cli(["audit", "verify", at("changed"), "--head", `${seq}:${hash}`]), 3, "a shortened log");
    writeFileSync(at("changed"), text("audit.log").slice(0, -10));
    expectComplaint(await cli(["audit", "verify", at("changed")]), 3, "half a record");
    writeFileSync(at("changed"), text("audit.log").replace("first", "fjrst"));
    expectComplaint(await cli(["audit", "verify", at("changed")]), 3, "an edited record");
  });
});

describe("the EK certificate", () => {
  const withCertificate = (words: string, name: string) =>
    lineOf(words).map((word) => (word === at("ek.der") ? at(name) : word));

  test.each(["seal", "enrol"])("I9: %s takes none but one of the pinned CA", async (words) => {
    await run("openssl", [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes", "-subj", "/CN=x"],
      ...["-addext", "basicConstraints=critical,CA:false", "-keyout", at("self.pem"), "-out", at("self.crt")],
    ]);
    const result = await cli(withCertificate(words, "self.crt"), PIN);
    expectComplaint(result, 3, words);
    expect(result.err).toMatch(/pinned authority/);
  });

  test.each([
    ["RSA-3072", ["-newkey", "rsa:3072"]],
    ["P-256", ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]],
    ["Brainpool, which has no JWK form", ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:brainpoolP384r1"]],
    ["Ed25519", ["-newkey", "ed25519"]],
  ])("a certificate of the pinned CA for a key that no EK has (%s) is refused by name", async (_, key) => {
    await makeCa();
    await run("openssl", ["req", ...key, "-nodes", "-subj", "/CN=x", "-keyout", at("odd.pem"), "-out", at("odd.csr")]);
    writeFileSync(
      at("odd.ext"),
      "basicConstraints=critical,CA:false\nkeyUsage=keyEncipherment,keyAgreement\nextendedKeyUsage=2.23.133.8.1\n",
    );
    await run("openssl", [
      ...["x509", "-req", "-in", at("odd.csr"), "-CA", at("ca.crt"), "-CAkey", at("ca.key"), "-days", "30"],
      ...["-extfile", at("odd.ext"), "-out", at("odd.crt")],
    ]);
    const line = withCertificate("seal", "odd.crt").map((word) => (word === at("ek-ca.pem") ? at("ca.crt") : word));
    const result = await cli(line, PIN);
    expectComplaint(result, 3, line.join(" "));
    expect(result.err).toMatch(/ek key: expected RSA 2048.*, got /);
  });

  async function makeCa(): Promise<void> {
    if (existsSync(at("ca.crt"))) return;
    await run("openssl", [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes", "-subj", "/CN=ca"],
      ...["-addext", "keyUsage=keyCertSign", "-days", "30", "-keyout", at("ca.key"), "-out", at("ca.crt")],
    ]);
  }

  test("DER and PEM of one certificate are the same certificate", async () => {
    await run("openssl", ["x509", "-inform", "DER", "-in", at("ek.der"), "-out", at("ek.pem")]);
    const [der, pem] = [
      await cli([...lineOf("seal"), "--json"], PIN),
      await cli([...withCertificate("seal", "ek.pem"), "--json"], PIN),
    ];
    expect(JSON.parse(pem.out).ekName).toBe(JSON.parse(der.out).ekName);
  });
});

describe("I4: the PIN", () => {
  test.each([
    ["is empty", "", /PIN: expected 1 to 63 bytes, got none/],
    ["is only a line end", "\n", /got none/],
    ["is one byte too long", "4".repeat(64), /expected 1 to 63 bytes, got more/],
    ["is a megabyte", "4".repeat(1 << 20), /got more/],
    ["ends with a carriage return", `${PIN}\r\n`, /one line without control characters/],
    ["has two lines", `${PIN}\n${PIN}\n`, /one line without control characters/],
    ["has a NUL", `${PIN}\0`, /one line without control characters/],
  ])("a PIN that %s is refused as usage, nothing is written and nothing of it printed", async (_, pin, message) => {
    const out = at("unwritten.json");
    const line = lineOf("seal").map((word) => (word === at("other-sealed.json") ? out : word));
    const result = await program(line, pin);
    expectComplaint(result, 2, "seal");
    expect(result.err).toMatch(message);
    expect(result.err + result.out).not.toContain("4444");
    expect(existsSync(out)).toBe(false);
  });

  test("it never appears in output, whether it is sealed or an error comes first", async () => {
    for (const line of [
      lineOf("seal"),
      [...lineOf("seal"), "--json"],
      lineOf("seal").with(2, at("random")),
      ["seal", PIN],
      ["seal", "--pin", PIN],
    ]) {
      const { out, err } = await program(line, PIN);
      expect(out + err).not.toContain(PIN);
    }
    expect(text("other-sealed.json")).not.toContain(PIN);
  });

  test("a terminal would show it: refused, with a hint", async () => {
    const line = [process.execPath, join(project, "agent/cli/ironclaw.ts"), ...lineOf("seal")];
    const shell = line.map((word) => `'${word}'`).join(" ");
    const { stdout } = await run("script", ["-qec", `${shell}; echo exit $?`, "/dev/null"]);
    expect(stdout).toMatch(/expected a pipe or a file on standard input, got a terminal/);
    expect(stdout).toMatch(/hint: .*systemd-ask-password/);
    expect(stdout).toMatch(/exit 2/);
  });
});

describe("a machine that is not there, or is not honest", () => {
  test.each(["report", "enrol"])("%s says that nobody listens, and how to have a machine", async (words) => {
    const line = lineOf(words).map((word) => (word === at("machine") ? at("directory") : word));
    const result = await cli(line);
    expectComplaint(result, 4, words);
    expect(result.err).toMatch(/expected a running machine, got no listener/);
    expect(result.err).toMatch(/hint: .*--stay/);
  });
});

describe("output", () => {
  test("names from a document cannot drive a terminal, and JSON keeps them whole", async () => {
    const name = "evil\u001b[2J\u202etxt\u009b";
    const line = lineOf("release sign").map((word) => (word === "second" ? name : word));
    expect((await cli(line)).code).toBe(0);
    const show = ["release", "show", at("other-release.json"), "--anchors", at("anchors.json")];
    expect((await cli(show)).out).toContain("release evil?[2J?txt?:");
    const { out } = await cli([...show, "--json"]);
    expect(plainText(out)).toBe(out);
    expect(JSON.parse(out).name).toBe(name);
  });

  test("an error is one line of bounded length; JSON survives the escaping", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 200 }), (value) => {
        for (const character of ["\n", "\r", "\u001b", "\u202e"]) expect(oneLine(value)).not.toContain(character);
        expect(JSON.parse(renderJson({ value }))).toEqual({ value });
        expect(plainText(renderJson({ value }))).toBe(renderJson({ value }));
      }),
    );
    expect(oneLine("x".repeat(1 << 20)).length).toBeLessThan(10_000);
  });
});
