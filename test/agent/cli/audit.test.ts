import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { CHECKPOINT_PURPOSE } from "../../../agent/audit/checkpoint.ts";
import { AuditKeeper } from "../../../agent/audit/keeper.ts";
import { encodeEvidence } from "../../../attest/evidence.ts";
import { fromHex, toBase64, toHex } from "../../../policy/index.ts";
import { openTpm } from "../../../seal/index.ts";
import { AuditBench, ENTRY, SMALL, START } from "../../support/audit-fixture.ts";
import { cli } from "../../support/cli.ts";
import { makeEnrolment, makeEvidence, softEccKey } from "../../support/evidence-maker.ts";
import { NATIVE_DIRECTORY } from "../../support/shim-fixture.ts";
import { startSwtpm } from "../../support/swtpm.ts";

let bench: AuditBench;
let now: number;
beforeEach(async () => {
  bench = new AuditBench();
  now = START;
  const log = bench.open({ limits: SMALL, now: () => now });
  for (let index = 1; index <= 8; index += 1) {
    const refused = { decision: "deny", step: "rate", reason: "too\u001b[2J many" } as const;
    await log.append(index % 4 === 0 ? { ...ENTRY, ...refused, scope: "other" } : ENTRY, "written");
    now += 1_000;
  }
  log.close();
});
afterEach(() => bench.remove());

const at = (name: string) => join(bench.root, name);
const shown = async (...options: string[]) => {
  const { code, out } = await cli(["audit", "show", bench.directory, "--json", ...options]);
  expect(code).toBe(0);
  return out
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
};

describe("audit show", () => {
  test("I8: filters choose by all that is asked for", async () => {
    expect((await shown("--decision", "deny")).map(({ scope }) => scope)).toEqual(["other", "other"]);
    expect(await shown("--scope", "other", "--step", "rate", "--caller", "2001")).toHaveLength(2);
    expect(await shown("--scope", "other", "--decision", "allow")).toEqual([]);
    expect(await shown("--caller", "2002")).toEqual([]);
    expect(await shown("--caller", ENTRY.caller?.exe ?? "", "--operation", "sign")).toHaveLength(8);
    expect(await shown("--operation", "sign", "--since", "2027-01-15T08:00:06Z")).toHaveLength(2);
    expect(await shown("--operation", "sign", "--until", "2027-01-15T08:00:02Z")).toHaveLength(2);
    expect((await shown("--from", "3", "--limit", "2")).map(({ seq }) => seq)).toEqual([3, 4]);
    expect(await shown("--follow", "--limit", "5")).toHaveLength(5);
  });

  test("a table's texts cannot drive a terminal", async () => {
    const { out } = await cli(["audit", "show", bench.directory]);
    expect(out).toContain("deny rate");
    expect(out).not.toContain("\u001b");
  });

  test("a filter that cannot be is a usage error", async () => {
    for (const options of [
      ["--caller", "root"],
      ["--decision", "maybe"],
      ["--since", "yesterday"],
      ["--from", "0"],
    ])
      expect((await cli(["audit", "show", bench.directory, ...options])).code).toBe(2);
  });
});

describe("audit export and verify", () => {
  const verify = (log: string, ...options: string[]) => cli(["audit", "verify", log, ...options]);

  test("I8: a log extends its own export; an edit, a cut and another history do not, and it is said where", async () => {
    expect((await cli(["audit", "export", bench.directory, "--out", at("early.jsonl"), "--limit", "4"])).code).toBe(0);
    expect((await cli(["audit", "export", bench.directory, "--out", at("all.jsonl")])).code).toBe(0);
    expect((await verify(bench.directory, "--against", at("early.jsonl"))).code).toBe(0);
    expect((await verify(at("all.jsonl"), "--against", bench.directory)).code).toBe(0);
    const cut = await verify(at("early.jsonl"), "--against", at("all.jsonl"));
    expect(cut).toMatchObject({ code: 3, err: expect.stringContaining("ends with record 4") });
    const other = new AuditBench();
    await other.write(12, { limits: SMALL });
    const forked = await verify(other.directory, "--against", at("early.jsonl"));
    expect(forked).toMatchObject({ code: 3, err: expect.stringContaining("audit record 1 in 0000000000000001.log") });
    other.remove();
    writeFileSync(at("all.jsonl"), readFileSync(at("all.jsonl"), "utf8").replace('"scope":"other"', '"scope":"mine"'));
    expect(await verify(at("all.jsonl"))).toMatchObject({ code: 3, err: expect.stringContaining("hash") });
  });

  test("I8: a part of a log says from which record on it verifies", async () => {
    await cli(["audit", "export", bench.directory, "--out", at("late.jsonl"), "--from", "5"]);
    expect((await verify(at("late.jsonl"))).out).toContain("verified from record 5 on");
    const { out } = await verify(at("late.jsonl"), "--json");
    expect(JSON.parse(out)).toMatchObject({ first: 5, checkpoints: { count: 0, covers: 0, certified: null } });
  });

  test("I8: a log reaches the head of a report's evidence, and one that was cut before it, or is another, does not", async () => {
    const [head] = (await shown("--from", "5", "--limit", "1")) as [{ seq: number; hash: string }];
    const report = async (name: string, audit: { seq: number; hash: Uint8Array }) => {
      writeFileSync(at(name), encodeEvidence((await makeEvidence({ asserted: { audit } })).evidence));
      return at(name);
    };
    const seen = await report("seen.cbor", { seq: head.seq, hash: fromHex(head.hash) });
    expect((await verify(bench.directory, "--against", seen)).code).toBe(0);
    await cli(["audit", "export", bench.directory, "--out", at("early.jsonl"), "--limit", "4"]);
    const cut = await verify(at("early.jsonl"), "--against", seen);
    expect(cut).toMatchObject({ code: 3, err: expect.stringContaining("record 4") });
    const other = await report("other.cbor", { seq: head.seq, hash: new Uint8Array(32) });
    expect(await verify(bench.directory, "--against", other)).toMatchObject({ code: 3 });
  });

  test("I8: with an enrolment its attestation key must have certified the checkpoints", async () => {
    await using machine = await startSwtpm({ endorsement: "none" });
    const tpm = await openTpm({ tcti: machine.tcti, nativeDirectory: NATIVE_DIRECTORY });
    try {
      const ak = await tpm.createAttestationKey();
      const signer = await tpm.certifiedKey(ak, CHECKPOINT_PURPOSE);
      const log = bench.open({ limits: SMALL });
      await log.append(ENTRY, "written");
      await new AuditKeeper({ log, anchor: null, key: () => signer }).settle();
      log.close();
      const stranger = makeEnrolment(await softEccKey());
      const enrolled = { ...stranger, akPublic: toBase64(ak.publicArea), akName: toHex(ak.name) };
      writeFileSync(at("own.json"), JSON.stringify(enrolled));
      writeFileSync(at("stranger.json"), JSON.stringify(stranger));
    } finally {
      await tpm.close();
    }
    expect((await verify(bench.directory)).out).toContain("nobody vouched for");
    const own = await verify(bench.directory, "--enrolment", at("own.json"));
    expect(own).toMatchObject({ code: 0, out: expect.stringContaining("attestation key certified") });
    expect((await verify(bench.directory, "--enrolment", at("stranger.json"))).code).toBe(3);
  });

  test("an empty directory is no log, so a wrong path is not taken for a good one", async () => {
    expect((await verify(bench.root)).code).toBe(4);
  });
});
