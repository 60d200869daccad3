import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { COMMANDS } from "../../../agent/cli/ironclaw.ts";
import { cli } from "../../support/cli.ts";
import { type CliFixture, makeCliFixture, NONCE, PIN } from "../../support/cli-fixture.ts";

const run = promisify(execFile);
let made: CliFixture;
beforeAll(async () => {
  made = await makeCliFixture({ machine: true });
}, 120_000);
afterAll(async () => {
  await made?.[Symbol.asyncDispose]();
});

describe("with --json", () => {
  const facts: Readonly<Record<string, object>> = {
    "appraisal check": { ok: true, sha256: expect.stringMatching(/^[0-9a-f]{64}$/), policy: { name: "cli" } },
    "audit export": { records: 3, first: 1, last: 3, file: expect.stringMatching(/other\.jsonl$/) },
    "audit verify": { ok: true, first: 1, seq: 3, hash: expect.stringMatching(/^[0-9a-f]{64}$/) },
    "cabinet list": { slots: expect.arrayContaining([expect.objectContaining({ slot: "sealed" })]), warnings: [] },
    "cabinet new": { file: expect.stringMatching(/other\.img$/) },
    "cabinet put": { file: expect.stringMatching(/cabinet\.img$/) },
    "ek show": {
      tpm: { manufacturer: "id:00001014" },
      verdict: { kind: "endorsed", assurance: "software-tpm", anchor: "software TPM", profile: "H-3" },
      seals: null,
    },
    enrol: { name: "vm-1", assurance: "software-tpm", sha256: expect.stringMatching(/^[0-9a-f]{64}$/) },
    "image predict": { sha256: { 12: "0".repeat(64) } },
    "keys delegate": { credentials: ["hsm-pin", "state"], lastEpoch: 8, releaseKey: expect.any(String) },
    "keys public": { keyId: expect.stringMatching(/^[0-9a-f]{64}$/), file: expect.stringMatching(/other\.pub$/) },
    "keys anchors": { releaseRoot: expect.any(String), operator: expect.any(String), sha256: expect.any(String) },
    measure: { path: expect.stringMatching(/libsofthsm2\.so$/), closure: expect.any(Object) },
    "policy check": { ok: true, serial: 7, tokens: [expect.objectContaining({ name: "token", pin: "hsm-pin" })] },
    "policy explain": { allow: true, token: "token", scopes: expect.any(Array) },
    "release diff": { from: "first", to: "first", changes: [] },
    "release show": { verified: true, name: "first", image: { variant: "demo" }, credentials: ["hsm-pin", "state"] },
    "release sign": {
      name: "second",
      epoch: 1,
      raise: false,
      file: expect.stringMatching(/other-release\.json$/),
      sha256: expect.any(String),
    },
    report: { bank: "sha256", nonce: NONCE, bytes: expect.any(Number), sha256: expect.any(String) },
    seal: {
      name: "hsm-pin",
      kind: "pin",
      generation: 1,
      notAfter: null,
      tokenSerial: "1f00aa",
      sha256: expect.any(String),
    },
    verify: { tier: "affirming", machine: "vm-1", findings: [] },
  };

  test.each(Object.keys(facts))("%s prints one JSON document with its facts, and nothing else", async (words) => {
    const { code, out, err } = await cli([...made.lineOf(words), "--json"], PIN);
    expect(err).toBe("");
    expect(JSON.parse(out)).toMatchObject(facts[words] ?? {});
    expect(code).toBe(0);
    expect(out).not.toContain(PIN);
  });

  test("a written file has the digest that was printed", async () => {
    const { out } = await cli([...made.lineOf("seal"), "--json"], PIN);
    const { file, sha256 } = JSON.parse(out);
    expect((await run("sha256sum", [file])).stdout.slice(0, 64)).toBe(sha256);
  });

  test("`release predict` prints what `release sign` reads", async () => {
    const { code, out } = await cli(made.lineOf("release predict"));
    expect(code).toBe(0);
    expect(JSON.parse(out)).toEqual(made.json("prediction.json"));
  });

  test("every command has it, or is one that prints no answer", async () => {
    for (const [words, load] of Object.entries(COMMANDS)) {
      const { command } = await load();
      if (words !== "agent" && words !== "release predict") expect(command.options["json"], words).toBeDefined();
    }
  });
});
