import { generateKeyPairSync } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { policyJsonSchema } from "../../../policy/index.ts";
import { cli } from "../../support/cli.ts";
import { expectComplaint } from "../../support/cli-fixture.ts";
import { type PolicyDocument, policyDocument, SIGNER_EXE, sshKeyLine } from "../../support/policy-document.ts";

const directory = mkdtempSync(join(tmpdir(), "policy-tools-"));
afterAll(() => rmSync(directory, { recursive: true }));

function put(name: string, text: string): string {
  writeFileSync(join(directory, name), text);
  return join(directory, name);
}

function putPolicy(name: string, change: (document: PolicyDocument) => void = () => {}): string {
  const document = policyDocument();
  change(document);
  return put(name, `// reviewed\n${JSON.stringify(document, null, 2)}\n`);
}

const NOW = ["--at", "2027-01-01T00:00:00Z"];
const approved = (document: PolicyDocument) => {
  const [alice, bob] = [sshKeyLine("A"), sshKeyLine("F")];
  Object.assign(document, { approvers: { alice: { key: alice, notFor: [] }, bob: { key: bob, notFor: [] } } });
  Object.assign(document.scopes[0] ?? {}, {
    approvals: { required: 2, of: ["alice", "bob"], for: "operation", window: "PT15M" },
    valid: { from: "2027-01-01T00:00:00Z", until: "2028-01-01T00:00:00Z" },
  });
};

/** A line that drafts a policy for a library in an image of two files. */
function draftLine(reviewBy: string, ...more: readonly string[]): readonly string[] {
  for (const path of ["usr/lib/ironclaw/local.profile", "usr/lib/ironclaw/relay.profile", "usr/bin/signer"]) {
    mkdirSync(dirname(join(directory, "image/tree", path)), { recursive: true });
    put(join("image/tree", path), path);
  }
  const { path, sha256, closure, config, environment } = policyDocument()["module"] as Record<string, unknown>;
  const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const key = put("key.pem", publicKey.export({ type: "spki", format: "pem" }).toString());
  const module = put("module.json", JSON.stringify({ path, sha256, closure, config, environment }));
  return [
    ...["policy", "new", "--image", join(directory, "image"), "--module", module, "--key", `release-ec=${key}`],
    ...["--label", "signing", "--serial", "1f00aa", "--uid", "2001", "--exe", "/usr/bin/signer"],
    ...["--owner", "payments", "--review-by", reviewBy, "--out", join(directory, "new.json"), ...more],
  ];
}

describe("policy new", () => {
  test("says of what it wrote what `policy check` would warn of, as of a review that is past before it begins", async () => {
    const soon = new Date(Date.now() + 30 * 86_400_000).toISOString().slice(0, 10);
    expect(await cli(draftLine(soon))).toMatchObject({ code: 0, err: "" });
    expect((await cli(["policy", "check", "--strict", join(directory, "new.json")])).code).toBe(0);
    const past = await cli(draftLine("2020-01-01"));
    expect(past).toMatchObject({ code: 0, err: "warning: reviewBy: 2020-01-01 has passed\n" });
    expect((await cli(["policy", "check", "--strict", join(directory, "new.json")])).code).toBe(1);
  });

  test.each(["{", "[1", "x", ""])("I10: an endpoint that is no JSON (%j) is a typed error", async (endpoint) => {
    const line = draftLine("2027-03-01", "--profile", "relay", "--connect", endpoint);
    expectComplaint(await cli(line), 3, "--connect");
  });
});

describe("policy check", () => {
  test("I6: each finding has its line and column, and how many there are ends the command", async () => {
    const file = putPolicy("broken.json", (document) => {
      Object.assign(document.scopes[0] ?? {}, { key: "nobody" });
      Object.assign(document.scopes[1] ?? {}, { caller: "nobody" });
    });
    const result = await cli(["policy", "check", file]);
    expectComplaint({ ...result, out: "" }, 3, "policy check");
    expect(result.err).toContain(`${file}: expected no finding, got 2 (ERR_POLICY_INVALID)`);
    expect(result.out.split("\n").map((line) => line.replace(/:\d+:\d+:/, ":L:C:"))).toEqual([
      `${file}:L:C: scope release-signing: unknown key nobody`,
      `${file}:L:C: scope rsa-signing: unknown caller nobody`,
      "",
    ]);
    const { findings, ok } = JSON.parse((await cli(["policy", "check", file, "--json"])).out);
    expect(ok).toBe(false);
    expect(findings[0]).toEqual({
      ...{ severity: "error", code: "ERR_POLICY_INVALID", path: ["scopes", 0, "keys", 0] },
      ...{ line: expect.any(Number), column: 14, message: "scope release-signing: unknown key nobody" },
    });
  });

  test("I10: of a hostile document the first hundred findings are printed, each of bounded length, and how many more there are", async () => {
    const name = (at: number) => `${at}\u001b[2J${"n".repeat(at === 0 ? 500_000 : 8)}`;
    const fields = Array.from({ length: 20_000 }, (_, at) => `${JSON.stringify(name(at))}:1`);
    const file = put("hostile.json", `{${fields.join(",")}}`);
    const said = await cli(["policy", "check", file]);
    const lines = said.out.trimEnd().split("\n");
    expect(lines).toHaveLength(101);
    expect(lines.at(-1)).toMatch(/hostile\.json: and 199\d\d more$/);
    expect(Math.max(...lines.map(({ length }) => length))).toBeLessThan(700);
    const { findings, more } = JSON.parse((await cli(["policy", "check", file, "--json"])).out);
    expect(findings).toHaveLength(100);
    expect(lines.at(-1)).toContain(` ${more} more`);
    expect(Math.max(...findings.map((finding: unknown) => JSON.stringify(finding).length))).toBeLessThan(1500);
  });

  test("I10: a name that stands twice is shown cut, and without what a terminal acts upon", async () => {
    const name = JSON.stringify(`\u001b[2J${"n".repeat(400_000)}`);
    const { out, err } = await cli(["policy", "check", put("twice.json", `{${name}:1,${name}:1}`)]);
    expect(out).toMatch(
      /twice\.json:1:400\d\d\d: policy: expected no duplicate or special key, but "\?\[2Jn{60}\.\.\.", got/,
    );
    expect(out.length + err.length).toBeLessThan(1000);
  });

  test("I6: a text that is no policy is shown where it goes wrong", async () => {
    const file = put("comma.json", '{\n  "version": 3,\n}\n');
    const result = await cli(["policy", "check", file]);
    expectComplaint({ ...result, out: "" }, 3, "a trailing comma");
    expect(result.out).toMatch(/comma\.json:3:1: policy: expected a string/);
  });

  test("I6: warnings are said after all else; with --strict they are a refusal", async () => {
    const file = putPolicy("warned.json");
    const result = await cli(["policy", "check", file, ...NOW]);
    expect([result.code, result.err]).toEqual([0, ""]);
    expect(result.out).toMatch(/\n {2}keys: 3, each by its public key and its token, none by a label\n/);
    expect(result.out).toMatch(/warned\.json:\d+:5: warning: keys\.vault: no scope shows it \(unused-key\)\n/);
    expect((await cli(["policy", "check", file, ...NOW, "--strict"])).code).toBe(1);
    const strict = await cli(["policy", "check", file, ...NOW, "--strict", "--json"]);
    expect(JSON.parse(strict.out)).toMatchObject({
      ok: false,
      findings: [{ severity: "warning" }, {}, {}, { severity: "note" }, { code: "no-freeze-bit" }],
    });
    const late = await cli(["policy", "check", file, "--at", "2027-03-02T00:00:00Z"]);
    expect(late.out).toContain("warning: reviewBy: 2027-03-01 has passed (review-passed)");
    expectComplaint(await cli(["policy", "check", file, "--at", "today"]), 2, "--at");
  });
});

describe("policy explain", () => {
  const explain = (file: string, ...more: readonly string[]) =>
    cli(["policy", "explain", file, "--caller", "release-signer", "--key", "release-ec", ...more]);

  test("I6: it says what is missing and who could give it, and with that it is allowed", async () => {
    const file = putPolicy("approved.json", approved);
    const denied = await explain(file, ...NOW, "--approved-by", "alice,carol");
    expect(denied.code).toBe(1);
    expect(denied.out).toContain("  release-signing: no, approvals: 1 of 2 approvals (CKM_ECDSA)\n");
    expect(denied.out).toContain("    to change that: 1 more of bob would have to approve\n");
    const allowed = await explain(file, ...NOW, "--approved-by", "alice,bob");
    expect([allowed.code, allowed.err]).toEqual([0, ""]);
    expect(allowed.out).toMatch(
      /yes, by rule release-signing\/CKM_ECDSA\n {4}as long as: from 2027-01-01T00:00:00Z until 2028-01-01T00:00:00Z\n {4}as long as: approved by 2 of alice, bob, for each operation, within PT15M\n/,
    );
    const late = await explain(file, "--at", "2028-01-01T00:00:00Z", "--approved-by", "alice,bob");
    expect(late.out).toMatch(
      /release-signing: no, valid: [^\n]*\n {4}to change that: ask from 2027-01-01T00:00:00Z on/,
    );
    expect(late.out.match(/release-signing: no/g)).toHaveLength(1);
  });

  test("I6: data that do not fit are refused by the rule that they do not fit", async () => {
    const file = putPolicy("plain.json");
    const short = await explain(file, "--data-length", "20");
    expect(short.out).toMatch(/no, parameters: data: expected the 32 bytes of a sha256 digest, got 20 \(CKM_ECDSA\)/);
    expect(short.out).toContain("yes, by rule release-signing/CKM_ECDSA_SHA256\n");
    expect((await explain(file, "--digest", "ab".repeat(32), "--mechanism", "CKM_ECDSA")).code).toBe(0);
    expect((await explain(file, "--digest", "ab".repeat(20), "--mechanism", "CKM_ECDSA")).code).toBe(1);
    for (const more of [
      ["--digest", "AB"],
      ["--digest", "ab", "--data-length", "1"],
      ["--data-length", "1e3"],
      ["--scope", "x"],
    ])
      expectComplaint(await explain(file, ...more), 2, more.join(" "));
  });

  test("I6: a caller may be spelled out, and is then who it is", async () => {
    const file = putPolicy("unit.json", (document) =>
      Object.assign(document.callers["release-signer"] as object, { unit: "signer.service" }),
    );
    const as = (who: string) => cli(["policy", "explain", file, "--caller", who, "--key", "release-ec", "--json"]);
    const codes = await Promise.all(
      [`uid:2001,exe:${SIGNER_EXE},unit:signer.service`, `uid:2001,exe:${SIGNER_EXE}`, `uid:7,exe:${SIGNER_EXE}`].map(
        as,
      ),
    );
    expect(codes.map(({ code }) => code)).toEqual([0, 1, 1]);
    expect(JSON.parse(codes[1]?.out ?? "").scopes).toEqual([
      {
        ...{ scope: "release-signing", mechanism: null, allow: false, step: "caller", conditions: [] },
        ...{ reason: expect.stringContaining("unit"), change: "call from the unit signer.service" },
      },
    ]);
    for (const who of ["uid:2001", `exe:${SIGNER_EXE}`, `uid:01,exe:${SIGNER_EXE}`])
      expectComplaint(await as(who), 2, who);
  });
});

describe("policy test", () => {
  const good = { scope: "release-signing", caller: "release-signer", key: "release-ec", operation: "sign" };
  const putTable = (name: string, cases: readonly object[]) =>
    put(name, JSON.stringify({ version: 1, policy: "tested.json", at: "2027-01-01T00:00:00Z", cases }, null, 1));
  const ecdsa = { ...good, mechanism: "CKM_ECDSA" };

  test("I6: a table that comes out as expected exits 0, one that does not says what came instead, where, and exits 1", async () => {
    putPolicy("tested.json");
    const fine = await cli(["policy", "test", putTable("fine.json", [{ ...ecdsa, name: "a", expect: "allow" }])]);
    expect([fine.code, fine.err]).toEqual([0, ""]);
    expect(fine.out).toContain("not tried: no case is allowed by release-signing/CKM_ECDSA_SHA256\n");
    expect(fine.out).toMatch(/\n1 of 1 cases as expected\n$/);
    const file = putTable("wrong.json", [
      { ...ecdsa, name: "too often", state: { tokens: 0 }, expect: "allow" },
      { ...ecdsa, name: "never", expect: { deny: "caller" } },
    ]);
    const wrong = await cli(["policy", "test", file]);
    expect(wrong.code).toBe(1);
    expect(wrong.out.split("\n").slice(0, 2)).toEqual([
      expect.stringMatching(/wrong\.json:6:3: too often: expected allow, got deny at rate: more than 600 per minute$/),
      expect.stringMatching(
        /wrong\.json:\d+:3: never: expected deny at caller, got allow by release-signing\/CKM_ECDSA$/,
      ),
    ]);
    const json = JSON.parse((await cli(["policy", "test", file, "--json"])).out);
    expect(json).toMatchObject({
      ok: false,
      cases: [{ passed: false }, { passed: false }],
      failures: [{ line: 6 }, {}],
    });
    const other = await cli(["policy", "test", file, "--policy", putPolicy("other.json", approved)]);
    expect(other.out).toContain("never: expected deny at caller, got deny at approvals");
  });

  test("I6: a table or policy that cannot be read is no passed test", async () => {
    const broken = putTable("broken-table.json", [{ ...ecdsa, name: "a", expect: "maybe" }]);
    const result = await cli(["policy", "test", broken]);
    expectComplaint({ ...result, out: "" }, 3, "policy test");
    expect(result.out).toMatch(/broken-table\.json:\d+:\d+: cases\.0\.expect: expected "allow", or deny with one of /);
    const stranger = putTable("stranger.json", [{ ...ecdsa, name: "a", caller: "nobody", expect: { deny: "caller" } }]);
    expect((await cli(["policy", "test", stranger])).code).toBe(3);
    const fine = putTable("fine.json", [{ ...ecdsa, name: "a", expect: "allow" }]);
    expect((await cli(["policy", "test", fine, "--policy", put("no.json", "{}")])).code).toBe(3);
    expect((await cli(["policy", "test", fine, "--policy", join(directory, "absent")])).code).toBe(4);
  });
});

test("`policy schema` prints the schema", async () => {
  const { code, out } = await cli(["policy", "schema"]);
  expect([code, JSON.parse(out)]).toEqual([0, JSON.parse(JSON.stringify(policyJsonSchema()))]);
});
