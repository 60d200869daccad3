import { spawn } from "node:child_process";
import { once } from "node:events";
import { join, resolve } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Command, parseCommandLine, UsageError } from "../../../agent/cli/command.ts";
import { COMMANDS } from "../../../agent/cli/ironclaw.ts";
import { oneLine, renderJson } from "../../../agent/cli/output.ts";
import { printableText } from "../../../policy/index.ts";
import { cli } from "../../support/cli.ts";
import { type CliFixture, expectComplaint, ironclaw, makeCliFixture, PIN } from "../../support/cli-fixture.ts";

const project = resolve(import.meta.dirname, "../../..");
let made: CliFixture;
beforeAll(async () => {
  made = await makeCliFixture();
}, 120_000);
afterAll(async () => {
  await made?.[Symbol.asyncDispose]();
});
const at = (name: string) => made.at(name);

describe("help", () => {
  test("`--help` of each command exits 0, explains every option, and its examples parse", async () => {
    for (const [words, load] of Object.entries(COMMANDS)) {
      const { command } = await load();
      const { code, out } = await cli([...words.split(" "), "--help"]);
      expect(code).toBe(0);
      for (const name of Object.keys(command.options)) expect(out, words).toContain(`--${name}`);
      expect(command.examples.length, words).toBeGreaterThan(0);
      for (const example of command.examples) {
        const [, call = ""] = /ironclaw (.*?)(?: [<>].*)?$/.exec(example) ?? [];
        const given = call.replace("$(openssl rand -hex 32)", "00").split(" ").slice(words.split(" ").length);
        expect(call.startsWith(words), example).toBe(true);
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

/** Options that `release sign` needs besides. */
const SIGN = {
  ...{ "--name": "n", "--not-after": "2099-01-01T00:00:00Z", "--key": "k", "--delegation": "d" },
  ...{ "--anchors": "a", "--out": "o" },
};

describe("usage", () => {
  test.each([
    ["an unknown command", ["frobnicate", "now"], /expected one of those/],
    ["the name of an object's method", ["constructor"], /expected one of those/],
    ["an unknown option", ["policy", "check", "x", "--frobnicate"], /frobnicate/],
    [
      "an option with a value that it has not",
      ["policy", "check", "x", "--json=1"],
      /--json: expected no value, got one/,
    ],
    ["an option without its value", ["release", "sign", "p", "--epoch"], /--epoch: expected a value, got none/],
    ["a value that begins like an option", ["release", "sign", "p", "--epoch", "-1"], /is written --epoch=VALUE/],
    [
      "an image and what an installed system boots",
      ["release", "predict", "--image", "i", "--uki", "u", "--anchors", "a", "--policy", "p"],
      /got --image --uki/,
    ],
    [
      "the image of a boot without its log",
      ["release", "predict", "--booted-uki", "u", "--anchors", "a", "--policy", "p"],
      /got --booted-uki/,
    ],
    ["a missing argument", ["policy", "check"], /expected FILE, got none/],
    ["one argument too many", ["policy", "check", "a", "b"], /expected FILE, got 2 /],
    [
      "a missing option",
      ["report", "--out", "x", "--nonce", "00"],
      /--machine DIR: expected a value, or one of --from, got none/,
    ],
    [
      "no place for a report",
      ["report", "--machine", "m"],
      /--export DIR: expected a value, or one of --out, got none/,
    ],
    ["no place for the parts of a report", ["report", "--from", "r"], /--export DIR: expected a value, got none/],
    ["a machine and a report at once", ["report", "--from", "r", "--machine", "m", "--export", "d"], /without --from/],
    ["a second copy of a report", ["report", "--from", "r", "--out", "o", "--export", "d"], /--out: .*without --from/],
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
      /demo or dev or release, got x/,
    ],
    ["an audit head of another form", ["audit", "verify", "x", "--head", "1:ab"], /64 hexadecimal/],
    [
      "an epoch that is no number",
      ["release", "sign", "p", "--epoch", "1e2", ...Object.entries(SIGN).flat()],
      /--epoch: expected a number from 0 to 4294967295, got 1e2/,
    ],
    [
      "--raise of epoch 0, below which there is nothing",
      ["release", "sign", "p", "--epoch", "0", "--raise", ...Object.entries(SIGN).flat()],
      /--epoch: expected 1 or more with --raise/,
    ],
    [
      "--add for a slot with one document",
      ["cabinet", "put", "CABINET", "policy", "p", "--add"],
      /--add: expected the/,
    ],
    ["--module without --image", ["measure", "x.so", "--module", "m"], /expected --image too/],
  ] as const)("%s exits 2 and points to the help", async (_, args, message) => {
    const result = await cli(args.map((word) => (word === "CABINET" ? at("cabinet.img") : word)));
    expect(result.err).toMatch(message);
    expect(result.err).toMatch(/\(ERR_USAGE\)/);
    expect(result.code).toBe(2);
    if (Object.keys(COMMANDS).some((words) => args.join(" ").startsWith(words))) expect(result.err).toMatch(/hint: /);
  });

  test.each([
    ["release sign", "--not-after", "tomorrow"],
    ["release sign", "--not-after", "2001-01-01T00:00:00Z"],
    ["release sign", "--not-after", "2099-13-01T00:00:00Z"],
    ["release sign", "--not-before", "2099-06-01T00:00:00Z"],
    ["release sign", "--epoch", "4294967296"],
    ["release sign", "--epoch", ""],
    ["keys delegate", "--last-epoch", "01"],
    ["seal", "--generation", "4294967296"],
    ["seal", "--generation", "0"],
    ["seal", "--kind", "password"],
    ["seal", "--kind", "file"],
    ["seal", "--kind", "volume-key"],
    ["seal", "--name", "HSM"],
    ["seal", "--not-after", "2001-01-01T00:00:00Z"],
    ["seal", "--token-serial", "\u00e9"],
    ["seal", "--generation", "1e3"],
    ["cabinet new", "--name", "a/b"],
    ["cabinet put", "sealed", "nosuchslot"],
    ["enrol", "vm-1", "../vm"],
    ["policy explain", "--operation", "export"],
    ["enrol", "--assurance", "hardware"],
    ["enrol", "--ca-set", "both.json"],
    ["ek show", "--at", "yesterday"],
  ])("%s with %s %s exits 2", async (words, option, value) => {
    const line = made.lineOf(words);
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
      part: { type: "string", value: "FILE", help: "", multiple: true },
      json: { type: "boolean", help: "" },
    } as const;
    const command: Command = { summary: "", positionals: ["A"], options, examples: [], run: async () => 0 };
    fc.assert(
      fc.property(
        fc.string(),
        fc.string(),
        fc.boolean(),
        fc.boolean(),
        fc.array(fc.string()),
        (positional, value, flag, first, parts) => {
          const given = [`--out=${value}`, ...(flag ? ["--json"] : []), ...parts.map((part) => `--part=${part}`)];
          const input = parseCommandLine(command, [...(first ? given : given.toReversed()), "--", positional]);
          expect(input.positional(0)).toBe(positional);
          expect(input.text("out")).toBe(value);
          expect(input.flag("json")).toBe(flag);
          expect(input.list("part")).toEqual(first ? parts : parts.toReversed());
          expect(input.list("out")).toEqual([]);
        },
      ),
    );
  });
});

describe("output", () => {
  test("names from a document cannot drive a terminal, and JSON keeps them whole", async () => {
    const name = "evil\u001b[2J\u202etxt\u009b";
    const line = made.lineOf("release sign").map((word) => (word === "second" ? name : word));
    expect((await cli(line)).code).toBe(0);
    const show = ["release", "show", at("other-release.json"), "--anchors", at("anchors.json")];
    expect((await cli(show)).out).toContain("release evil?[2J?txt?:");
    const { out } = await cli([...show, "--json"]);
    expect(printableText(out)).toBe(out);
    expect(JSON.parse(out).name).toBe(name);
  });

  test("a line feed in a release's name makes no line of its own", async () => {
    const name = "x\n  valid        for ever";
    await ironclaw(made.lineOf("release sign").map((word) => (word === "second" ? name : word)));
    const lines = ["release", "diff", at("release.json"), at("other-release.json"), "--anchors", at("anchors.json")];
    for (const line of [["release", "show", at("other-release.json"), "--anchors", at("anchors.json")], lines])
      expect(await ironclaw(line)).not.toMatch(/^ {2}valid {8}for ever/m);
  });

  test("an error is one line of bounded length; JSON survives the escaping", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 200 }), (value) => {
        for (const character of ["\n", "\r", "\u001b", "\u202e"]) expect(oneLine(value)).not.toContain(character);
        expect(JSON.parse(renderJson({ value }))).toEqual({ value });
        expect(printableText(renderJson({ value }))).toBe(renderJson({ value }));
      }),
    );
    expect(oneLine("x".repeat(1 << 20)).length).toBeLessThan(10_000);
  });
});
