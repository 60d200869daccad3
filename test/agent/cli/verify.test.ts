import { readFileSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cli } from "../../support/cli.ts";
import { type CliFixture, expectComplaint, ironclaw, makeCliFixture, NONCE } from "../../support/cli-fixture.ts";

let made: CliFixture;
beforeAll(async () => {
  made = await makeCliFixture({ machine: true });
}, 120_000);
afterAll(async () => {
  await made?.[Symbol.asyncDispose]();
});
const at = (name: string) => made.at(name);

describe("a report", () => {
  test("I9: a report for another nonce, another bank or another machine does not verify", async () => {
    const line = made.lineOf("verify");
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
    const line = made.lineOf("verify").map((word) => (word === NONCE ? "00".repeat(32) : word));
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
      const line = made.lineOf("verify").map((word) => (word === at("report.cbor") ? at("changed") : word));
      expectComplaint(await cli(line), 3, `bit ${place}`);
    }
  });

  test("I9: the default appraisal policy contraindicates a demo image on a software TPM, and exits 1", async () => {
    const line = made.lineOf("verify").slice(0, -2);
    const { code, out } = await cli(line);
    expect(code).toBe(1);
    expect(out).toMatch(/^vm-1: contraindicated/);
    expect(out).toMatch(/image-variant/);
    expect(out).toMatch(/assurance class: expected provider-ek or better, got software-tpm/);
  });

  test("I9: a release of another root, or under other anchors, is refused", async () => {
    await ironclaw(["keys", "new", at("evil-root.pem")]);
    const anchors = ["--root", at("evil-root.pub"), "--operator", at("operator.pub"), "--out", at("evil-anchors.json")];
    await ironclaw(["keys", "anchors", ...anchors]);
    await ironclaw(made.lineWith("keys delegate", "root.pem", at("evil-root.pem")));
    const others: Readonly<Record<string, string>> = {
      [at("delegation.json")]: at("other-delegation.json"),
      [at("anchors.json")]: at("evil-anchors.json"),
    };
    await ironclaw(made.lineOf("release sign").map((word) => others[word] ?? word));
    const show = ["release", "show", at("other-release.json"), "--anchors"];
    await ironclaw([...show, at("evil-anchors.json")]);
    expectComplaint(await cli([...show, at("anchors.json")]), 3, "release");
    const line = made.lineOf("verify").map((word) => (word === at("anchors.json") ? at("evil-anchors.json") : word));
    expectComplaint(await cli(line), 3, "verify under other anchors");
    const cabinet = made
      .lineOf("cabinet new")
      .map((word) => (word === at("anchors.json") ? at("evil-anchors.json") : word));
    expectComplaint(await cli(cabinet), 3, "cabinet under other anchors");
  });
});

describe("a verdict", () => {
  const justNow = () => ["--challenged", new Date().toISOString()];
  const tokenOptions = () => ["--ear", at("verifier.pem"), "--ear-out", at("result.jwt"), ...justNow()];
  beforeAll(async () => {
    await ironclaw(["keys", "new", at("verifier.pem")]);
  });

  test("I9: a release out of its dates is contraindicated, and of several the one that the machine runs is taken", async () => {
    const sign = made.lineOf("release sign").with(-1, at("future.json"));
    await ironclaw([...sign, "--not-before", "2098-01-01T00:00:00Z"]);
    const alone = await cli(made.lineWith("verify", "release.json", at("future.json")));
    expect(alone.out).toMatch(/^ {2}refused {2}release-dates: /m);
    expect(alone.code).toBe(1);
    const both = await cli([...made.lineOf("verify"), "--reference", at("future.json")]);
    expect(both).toMatchObject({ code: 0, out: expect.stringMatching(/^vm-1: affirming \(.*release first\)/) });
  });

  test("I9: says what was not compared: continuity without --history, the challenge's age without --challenged", async () => {
    const { out } = await cli(made.lineOf("verify"));
    expect(out).toMatch(/^continuity: not checked, /m);
    expect(out).toMatch(/^freshness: the challenge is taken to be from now, /m);
    const told = await cli([...made.lineOf("verify"), "--challenged", new Date().toISOString()]);
    expect(told.out).not.toMatch(/^freshness/m);
  });

  test("I9: a challenge that is too old is contraindicated", async () => {
    const old = new Date(Date.now() - 3_600_000).toISOString();
    const { code, out } = await cli([...made.lineOf("verify"), "--challenged", old]);
    expect(out).toMatch(/^ {2}refused {2}stale: /m);
    expect(code).toBe(1);
  });

  test("I9: the history is made by the first report, met by the next, and refuses what went back", async () => {
    const line = [...made.lineOf("verify"), "--history", at("history.json")];
    expect((await cli(line)).out).toMatch(/^continuity: this is the first report/m);
    const kept = made.json("history.json");
    expect((await cli(line)).out).toMatch(/^continuity: comes after the last report/m);
    expect(made.json("history.json")).toEqual(kept);
    const ahead = JSON.stringify({ ...kept, resetCount: kept.resetCount + 1 });
    writeFileSync(at("history.json"), ahead);
    const result = await cli(line);
    expectComplaint(result, 3, "a TPM that went back");
    expect(result.err).toMatch(/tpm-rolled-back/);
    expect(made.text("history.json")).toBe(ahead);
    for (const [file, code] of [
      ["empty", 3],
      ["random", 3],
      ["directory", 4],
    ] as const)
      expectComplaint(await cli(line.with(-1, at(file))), code, file);
    expectComplaint(await cli(line.with(-1, at("missing/history.json"))), 4, "a folder that is not there");
  });

  test("I9: a contraindicated report still moves the history", async () => {
    const line = [...made.lineOf("verify").slice(0, -2), "--history", at("strict-history.json")];
    expect((await cli(line)).code).toBe(1);
    expect(made.json("strict-history.json")).toMatchObject({ version: 2 });
  });

  test("I9: a signed result verifies with the verifier's key, its nonce and no other", async () => {
    await ironclaw([...made.lineOf("verify"), ...tokenOptions()]);
    const read = ["ear", "verify", at("result.jwt"), "--key", at("verifier.pub")];
    const { out, code } = await cli([...read, "--nonce", NONCE]);
    expect(out).toMatch(/^vm-1: warning \(policy verdict affirming, launch serving, software-tpm, release first\)$/m);
    expect(out).not.toMatch(/not compared/);
    expect(code).toBe(0);
    expect((await cli(read)).out).toMatch(/nonce: not compared/);
    expect(JSON.parse((await cli([...read, "--json"])).out)).toMatchObject({
      eat_profile: "tag:github.com,2023:veraison/ear",
      submods: { ironclaw: { "ear.status": "warning", "ironclaw.tier": "affirming" } },
    });
    expectComplaint(await cli([...read, "--nonce", "00".repeat(32)]), 3, "another nonce");
    expectComplaint(await cli(read.with(-1, at("operator.pub"))), 3, "another key");
    for (const file of ["empty", "random", "report.cbor"]) expectComplaint(await cli(read.with(2, at(file))), 3, file);
    expectComplaint(await cli(read.with(2, at("nothing"))), 4, "no token");
  });

  test("I9: a contraindicated result is signed as such, and exits 1 where it is read", async () => {
    const line = made.lineOf("verify").slice(0, -2);
    expect((await cli([...line, ...tokenOptions()])).code).toBe(1);
    const read = await cli(["ear", "verify", at("result.jwt"), "--key", at("verifier.pub")]);
    expect(read.out).toMatch(/^vm-1: contraindicated \(policy verdict contraindicated/m);
    expect(read.code).toBe(1);
  });

  test("the token is printed last where no file is named, and never into a JSON document", async () => {
    const { out } = await cli([...made.lineOf("verify"), "--ear", at("verifier.pem"), ...justNow()]);
    expect(out.trimEnd().split("\n").at(-1)).toMatch(/^eyJ[\w-]+\.[\w-]+\.[\w-]{86}$/);
    const line = [...made.lineOf("verify"), "--json", ...tokenOptions()];
    expect(JSON.parse((await cli(line)).out)).toMatchObject({ version: 2, tier: "affirming" });
  });

  test("I9: a JSON document says what was not compared: the last report, the age of the challenge", async () => {
    const line = [...made.lineOf("verify"), "--json"];
    expect(JSON.parse((await cli(line)).out)).toMatchObject({ unchecked: ["continuity", "freshness"] });
    const whole = [...line, ...justNow(), "--history", at("unchecked-history.json")];
    expect(JSON.parse((await cli(whole)).out)).toMatchObject({ unchecked: [] });
  });

  test.each([
    ["--ear-out without --ear", ["--ear-out", "x"]],
    ["--ear-ttl without --ear", ["--ear-ttl", "5"]],
    ["a life of no time", ["--ear", "x", "--ear-ttl", "0"]],
    ["a token in a JSON document", ["--ear", "x", "--json", "--challenged", "2027-01-01T00:00:00Z"]],
    ["a token without the time of its challenge", ["--ear", "x"]],
    ["a time that is none", ["--challenged", "yesterday"]],
  ])("%s is a usage error", async (_title, words) => {
    expectComplaint(await cli([...made.lineOf("verify"), ...words]), 2, words.join(" "));
  });

  test("I9: a key of another kind cannot sign a result", async () => {
    await ironclaw(["keys", "new", at("rsa.pem"), "--kind", "rsa2048"]);
    expectComplaint(await cli([...made.lineOf("verify"), "--ear", at("rsa.pem"), ...justNow()]), 3, "an RSA key");
  });
});

describe("an appraisal policy", () => {
  test("I9: is said in words, the empty lists too", async () => {
    const { out } = await cli(["appraisal", "check", at("appraisal.json")]);
    expect(out).toMatch(/^appraisal policy cli, sha256 [0-9a-f]{64}, accepts:$/m);
    for (const line of [
      "releases: any that the release root signed",
      "image variants: demo",
      "TPM: class software-tpm or better",
      "libraries: as released",
      "every served key reports: sensitive true, extractable false",
      "firmware: without reference values, without a word",
    ])
      expect(out).toContain(`  ${line}\n`);
    const lists = { releases: [], variants: [], libraries: [], profiles: [] };
    writeFileSync(at("closed.json"), JSON.stringify({ ...made.json("appraisal.json"), ...lists }));
    const closed = await cli(["appraisal", "check", at("closed.json")]);
    expect(closed.out.match(/none, so it refuses every machine/g)).toHaveLength(4);
  });

  test("its published schema is what the command prints", async () => {
    const { out } = await cli(["appraisal", "schema"]);
    const published = new URL("../../../attest/appraisal-policy.schema.json", import.meta.url);
    expect(JSON.parse(out)).toEqual(JSON.parse(readFileSync(published, "utf8")));
  });
});

describe("a machine that is not there, or is not honest", () => {
  test.each(["report", "enrol"])("%s says that nobody listens, and how to have a machine", async (words) => {
    const line = made.lineOf(words).map((word) => (word === at("machine") ? at("directory") : word));
    const result = await cli(line);
    expectComplaint(result, 4, words);
    expect(result.err).toMatch(/expected a running machine, got no listener/);
    expect(result.err).toMatch(/hint: .*--stay/);
  });
});
