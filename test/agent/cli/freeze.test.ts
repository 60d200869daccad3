import { writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cli } from "../../support/cli.ts";
import { type CliFixture, expectComplaint, makeCliFixture } from "../../support/cli-fixture.ts";

let made: CliFixture;
beforeAll(async () => {
  made = await makeCliFixture({ machine: true });
}, 120_000);
afterAll(async () => {
  await made?.[Symbol.asyncDispose]();
});
const at = (name: string) => made.at(name);
const machine = () => ["--machine", at("machine")];

/** The machine's own policy with some fields of it, and of its first scope, changed. */
function put(name: string, fields: object, scope: object = {}): string {
  const document = made.json("policy.json");
  const [first, ...others] = document.scopes;
  writeFileSync(at(name), JSON.stringify({ ...document, ...fields, scopes: [{ ...first, ...scope }, ...others] }));
  return at(name);
}

describe("policy diff and policy sign", () => {
  test("I7: a policy that only narrows is exit 0, one that widens 1, with each field, in words and as JSON", async () => {
    const narrow = put("narrow.json", { serial: 8 }, { rate: { perMinute: 1, burst: 1 } });
    const forwards = await cli(["policy", "diff", at("policy.json"), narrow]);
    expect(forwards).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^only narrows[\s\S]* narrows: scopes\..*rate/),
    });
    const wide = put("wide.json", { serial: 9 });
    const back = await cli(["policy", "diff", narrow, wide]);
    expect(back).toMatchObject({
      code: 1,
      out: expect.stringMatching(/^does not only narrow[\s\S]* widens: scopes\./),
    });
    const json = JSON.parse((await cli(["policy", "diff", narrow, at("policy.json"), "--json"])).out);
    expect(json).toMatchObject({ onlyNarrows: false, serial: { from: 8, to: 7 }, changes: expect.any(Array) });
  });

  test("I7: what is signed only narrows what the machines run; the machine takes it once, and serves it", async () => {
    const narrow = put("narrow.json", { serial: 8 }, { rate: { perMinute: 1, burst: 1 } });
    const sign = (policy: string, narrows: string) => {
      const key = ["--key", at("release.pem"), "--out", at("signed.json")];
      return cli(["policy", "sign", policy, "--narrows", narrows, ...key]);
    };
    expectComplaint(await sign(at("policy.json"), narrow), 1, "policy sign");
    expect(await sign(narrow, at("policy.json"))).toMatchObject({ code: 0 });
    expect(await cli(["narrow", at("signed.json"), ...machine(), "--json"])).toMatchObject({
      ...{ code: 0, out: expect.stringMatching(/"serial": 8/) },
    });
    const again = await cli(["narrow", at("signed.json"), ...machine()]);
    expect(again.err).toMatch(/ERR_POLICY_WIDENS.*serial/);
  });
});

describe("freeze and unfreeze", () => {
  const order = (...words: string[]) =>
    cli(["order", "unfreeze", ...words, "--operator", at("operator.pem"), ...machine(), "--json"]);

  test("I8: everything is frozen by one command, and said by status, until an order of the operator's, and then the boot", async () => {
    const before = JSON.parse((await cli(["freeze", "--status", ...machine(), "--json"])).out);
    expect(before).toMatchObject({ all: false, scopes: [], bits: "0000000000000000" });
    expect(await cli(["freeze", "--all", ...machine()])).toMatchObject({
      code: 0,
      out: expect.stringMatching(/everything/),
    });
    expect(await order("--bit", "0")).toMatchObject({ code: 0, out: expect.stringMatching(/"keep": "0{16}"/) });
    const after = JSON.parse((await cli(["freeze", "--status", ...machine(), "--json"])).out);
    expect(after).toMatchObject({ all: true, bits: "0000000000000000" });
  });

  test("I8: on a TPM with an owner the order takes the owner's escrow file, and no other machine's", async () => {
    const enrolled = await cli([...made.lineOf("enrol").with(-1, at("again.json")), "--escrow", at("escrow.json")]);
    expect(enrolled).toMatchObject({ code: 0 });
    await cli(["freeze", "--all", ...machine()]);
    const without = await order("--all");
    expect([without.code === 0, without.err]).toEqual([false, expect.stringMatching(/ERR_SEAL_OWNED/)]);
    const foreign = { ...made.json("escrow.json"), ekName: `000c${"00".repeat(48)}` };
    writeFileSync(at("foreign.json"), JSON.stringify(foreign), { mode: 0o600 });
    expect((await order("--all", "--escrow", at("foreign.json"))).code).not.toBe(0);
    expect(await order("--all", "--escrow", at("escrow.json"))).toMatchObject({ code: 0 });
  });

  test("neither takes nothing or two things at once, and a scope without a bit is refused with advice", async () => {
    for (const words of [[], ["--all", "--status"], ["--all", "--scope", "x"]])
      expectComplaint(await cli(["freeze", ...words, ...machine()]), 2, "freeze");
    for (const words of [[], ["--all", "--bit", "1"], ["--bit", "64"]]) expect((await order(...words)).code).toBe(2);
    const scope = made.json("policy.json").scopes[0].name;
    expect((await cli(["freeze", "--scope", scope, ...machine()])).err).toMatch(/ERR_FREEZE/);
    expect((await order("--scope", scope, "--policy", at("policy.json"))).err).toMatch(/ERR_FREEZE/);
  });
});
