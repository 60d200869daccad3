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

describe("a machine that is not there, or is not honest", () => {
  test.each(["report", "enrol"])("%s says that nobody listens, and how to have a machine", async (words) => {
    const line = made.lineOf(words).map((word) => (word === at("machine") ? at("directory") : word));
    const result = await cli(line);
    expectComplaint(result, 4, words);
    expect(result.err).toMatch(/expected a running machine, got no listener/);
    expect(result.err).toMatch(/hint: .*--stay/);
  });
});
