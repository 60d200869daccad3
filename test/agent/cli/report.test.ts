import { execFile } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeDirectory } from "../../../agent/cli/directories.ts";
import {
  type AttestationKeyKind,
  celRecord,
  collectEvidence,
  defaultQuotePcrs,
  encodeEvidence,
  type Incident,
  incidentEvent,
  type PcrBank,
  parseEvidence,
  pcrBanks,
} from "../../../attest/index.ts";
import { utf8 } from "../../../policy/index.ts";
import { openTpm } from "../../../seal/tpm.ts";
import { attempt, device, replacement } from "../../support/appraisal-rows.ts";
import { cli } from "../../support/cli.ts";
import { type CliFixture, expectComplaint, ironclaw, makeCliFixture, NONCE } from "../../support/cli-fixture.ts";
import { makeClaims, nonce, servingEvents } from "../../support/evidence-maker.ts";
import { typicalLog } from "../../support/firmware-log-writer.ts";
import { type SoftwareTpm, startSwtpm } from "../../support/swtpm.ts";

const run = promisify(execFile);
const root = resolve(import.meta.dirname, "../../..");
let directory: string;
let swtpm: SoftwareTpm;
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "report-"));
  swtpm = await startSwtpm();
});
afterAll(async () => {
  await swtpm?.stop();
  rmSync(directory, { recursive: true, force: true });
});
const at = (name: string) => join(directory, name);

/** A report of a software TPM in a file. Its PCRs and logs are not told apart: tpm2-tools do not replay logs. */
async function writeReport(
  name: string,
  kind: AttestationKeyKind,
  bank: PcrBank,
  pcrs = defaultQuotePcrs,
  incidents: readonly Incident[] = [],
): Promise<string> {
  await using tpm = await openTpm({ tcti: swtpm.tcti });
  await using ak = await tpm.createAttestationKey(kind);
  const events = [...servingEvents(), ...incidents.map(incidentEvent)];
  const records = events.map((event, index) => celRecord(index, 13, event));
  const sources = {
    ekCertificates: (await tpm.ekCertificates()).map(({ der }) => der),
    firmwareLog: typicalLog(),
    locked: <T>(act: (log: typeof records) => Promise<T>) => act(records),
    claims: () => makeClaims({ events, launch: "serving", asserted: { incidents }, claims: {} }),
  };
  writeFileSync(at(name), encodeEvidence(await collectEvidence(tpm, ak, sources, { nonce, bank, pcrs })));
  return at(name);
}

/** The commands of an exported README.txt, as a person pastes them into a shell there: tpm2_checkquote, then the recomputation. */
function commandsOf(exported: string): { readonly checkquote: string; readonly recompute: string } {
  const lines = readFileSync(join(exported, "README.txt"), "utf8").split("\n");
  const block = (start: string) => {
    const from = lines.findIndex((line) => line.startsWith(`  ${start}`));
    return lines
      .slice(from, lines.indexOf("", from))
      .map((line) => line.slice(2))
      .join("\n");
  };
  return { checkquote: block("tpm2_checkquote"), recompute: block("{ printf") };
}

const shell = (cwd: string, script: string) => run("sh", ["-c", script], { cwd });

describe("a report that is taken apart", () => {
  test.each(pcrBanks.flatMap((bank) => (["p256", "rsa2048"] as const).map((kind) => [kind, bank] as const)))(
    "I9: tpm2_checkquote takes the files of a %s key and the %s bank unchanged, and refuses them after one byte",
    async (kind, bank) => {
      const exported = at(`${kind}-${bank}`);
      await ironclaw(["report", "--from", await writeReport(`${kind}-${bank}.cbor`, kind, bank), "--export", exported]);
      const { checkquote, recompute } = commandsOf(exported);
      expect((await shell(exported, checkquote)).stdout).toContain(`${bank}:`);
      await shell(exported, recompute);
      await shell(exported, checkquote.replace("ak.pem", "ak.tpm2b"));
      for (const file of ["quote.bin", "signature.bin", "ak.pem", "pcrs.serialized", "extra-data.hex"]) {
        await expectChangeRefused(exported, file, checkquote);
      }
      for (const file of [
        "ak.tpmt",
        "claims.cbor",
        "agent-log.cbor",
        "firmware-log.bin",
        "ek-certificates.cbor",
        "nonce.hex",
      ]) {
        await expectChangeRefused(exported, file, recompute);
      }
    },
  );

  test("I9: one value after the other is what tpm2_checkquote takes for up to seven PCRs", async () => {
    const report = await writeReport("seven.cbor", "p256", "sha384", [0, 2, 4, 7, 9, 11, 13]);
    await ironclaw(["report", "--from", report, "--export", at("seven")]);
    const { checkquote } = commandsOf(at("seven"));
    await shell(at("seven"), checkquote.replace("pcrs.serialized", "pcrs.bin -l sha384:0,2,4,7,9,11,13"));
  });

  test("I5 I9: one that tells of incidents has them digit for digit, and tpm2_checkquote takes it", async () => {
    const largest = (1n << 64n) - 1n;
    const call = { ...attempt("ptrace"), args: [largest, largest - 1n, 1n << 53n, (1n << 53n) + 1n, 1n, 0n] };
    const incidents = [call, device("added"), replacement];
    const report = await writeReport("incidents.cbor", "p256", "sha256", defaultQuotePcrs, incidents);
    await ironclaw(["report", "--from", report, "--export", at("incidents")]);
    const { checkquote, recompute } = commandsOf(at("incidents"));
    await shell(at("incidents"), checkquote);
    await shell(at("incidents"), recompute);
    const { asserted } = JSON.parse(readFileSync(at("incidents/claims.json"), "utf8"));
    expect(asserted.incidents).toEqual([{ ...call, args: call.args.map((arg) => `${arg}`) }, ...incidents.slice(1)]);
    const told = asserted.incidents[0].args.map(BigInt);
    expect([{ ...call, args: told }, ...incidents.slice(1)].map(incidentEvent)).toEqual(incidents.map(incidentEvent));
    const log = readFileSync(at("incidents/agent-log.jsonl"), "utf8");
    const named = log
      .trimEnd()
      .split("\n")
      .slice(-3)
      .map((line) => JSON.parse(line).content);
    expect(named.map(({ kind, name }) => `${kind} ${name}`)).toEqual([
      ...["violation signing/0 ptrace", "violation device usb:08e6:4433", "shim-replaced signing"],
    ]);
  });

  test("the commands and the list of files of EVIDENCE.md are those that are written", async () => {
    const report = await writeReport("documented.cbor", "p256", "sha256");
    await ironclaw(["report", "--from", report, "--export", at("documented")]);
    const { checkquote, recompute } = commandsOf(at("documented"));
    const evidence = readFileSync(join(root, "attest/EVIDENCE.md"), "utf8");
    expect(evidence).toContain(checkquote);
    expect(evidence).toContain(recompute);
    const annex = evidence.slice(evidence.indexOf("## Annex A"));
    const cells = annex.split("\n").flatMap((line) => (line.startsWith("| `") ? [line.split("|")[1] ?? ""] : []));
    const named = cells.flatMap((cell) => cell.match(/(?<=`)[^`, ]+(?=`)/g) ?? []);
    const written = readdirSync(at("documented"), { recursive: true, encoding: "utf8" });
    expect(written.filter((name) => name.includes(".") && !/\/[1-9]/.test(name)).sort()).toEqual(named.sort());
  });

  test("I9: without a nonce the report's own word is taken, with one it is held against the quote", async () => {
    const report = await writeReport("asked.cbor", "p256", "sha256");
    const line = ["report", "--from", report, "--nonce", "00".repeat(32), "--export", at("asked")];
    await ironclaw(line);
    expect(readFileSync(at("asked/nonce.hex"), "utf8")).toBe(`${"00".repeat(32)}\n`);
    await expect(shell(at("asked"), commandsOf(at("asked")).checkquote)).rejects.toThrow(/nonce/);
  });

  test("I10: a malformed section is written as its bytes, named, and the exit code is 3", async () => {
    const evidence = parseEvidence(new Uint8Array(readFileSync(await writeReport("whole.cbor", "p256", "sha256"))));
    writeFileSync(at("bad.cbor"), encodeEvidence({ ...evidence, agentLog: utf8("no log") }));
    const result = await cli(["report", "--from", at("bad.cbor"), "--export", at("bad"), "--json"]);
    expectComplaint(result, 3, "a malformed log");
    expect(result.err).toContain("agent-log");
    expect(JSON.parse(result.out)).toMatchObject({ directory: at("bad"), malformed: [{ code: "ERR_CBOR_MALFORMED" }] });
    expect(readFileSync(at("bad/agent-log.cbor"), "utf8")).toBe("no log");
    expect(existsSync(at("bad/agent-log.jsonl"))).toBe(false);
    writeFileSync(at("noise.cbor"), "noise");
    expectComplaint(await cli(["report", "--from", at("noise.cbor"), "--export", at("noise")]), 3, "no report");
    expect(existsSync(at("noise"))).toBe(false);
  });
});

async function expectChangeRefused(exported: string, file: string, command: string): Promise<void> {
  const path = join(exported, file);
  const bytes = readFileSync(path);
  // In the middle: of a digest, a signature, a point; in text one digit for another.
  const place = file === "pcrs.serialized" ? 145 : bytes.length >> 1;
  const changed = Buffer.from(bytes);
  changed[place] = file.endsWith(".hex") ? (bytes[place] === 0x30 ? 0x31 : 0x30) : (bytes[place] ?? 0) ^ 1;
  writeFileSync(path, changed);
  await expect(shell(exported, command), file).rejects.toMatchObject({ code: 1 });
  writeFileSync(path, bytes);
}

describe("the directory of an export", () => {
  const files = new Map([
    ["a", utf8("a")],
    ["b/0", utf8("b")],
  ]);
  const exit4 = { code: "ERR_ENVIRONMENT", exitCode: 4 };

  test("may be new or empty; nothing that is there is written over", async () => {
    mkdirSync(at("empty"));
    for (const name of ["new", "empty/"]) {
      await writeDirectory(at(name), files);
      expect(readdirSync(at(name), { recursive: true }).sort()).toEqual(["a", "b", "b/0"]);
      await expect(writeDirectory(at(name), files)).rejects.toMatchObject(exit4);
    }
    writeFileSync(at("file"), "kept");
    await expect(writeDirectory(at("file"), files)).rejects.toMatchObject(exit4);
    expect(readFileSync(at("file"), "utf8")).toBe("kept");
    symlinkSync(at("nowhere"), at("link"));
    await expect(writeDirectory(at("link"), files)).rejects.toMatchObject(exit4);
  });

  test("I11: is there in full or not at all, and a failure leaves nothing behind", async () => {
    const before = readdirSync(directory).sort();
    const impossible = new Map([...files, ["a/below-a-file", utf8("c")]]);
    await expect(writeDirectory(at("half"), impossible)).rejects.toMatchObject(exit4);
    await expect(writeDirectory(at("missing/deep"), files)).rejects.toMatchObject({ ...exit4, got: "no such file" });
    mkdirSync(at("locked"));
    chmodSync(at("locked"), 0o500);
    if (process.getuid?.() !== 0) await expect(writeDirectory(at("locked/x"), files)).rejects.toMatchObject(exit4);
    rmSync(at("locked"), { recursive: true });
    expect(readdirSync(directory).sort()).toEqual(before);
  });
});

describe("a report of a running machine", () => {
  let made: CliFixture;
  beforeAll(async () => {
    made = await makeCliFixture({ machine: true });
  }, 120_000);
  afterAll(async () => {
    await made?.[Symbol.asyncDispose]();
  });

  test("I9: is asked with a fresh nonce when none is given, which is printed, and verifies with it", async () => {
    const line = [
      "report",
      "--machine",
      made.at("machine"),
      "--out",
      made.at("fresh.cbor"),
      "--export",
      made.at("fresh"),
    ];
    const first = (await ironclaw(line)).match(/^nonce ([0-9a-f]{64})$/m)?.[1] ?? "";
    expect(made.text("fresh/nonce.hex")).toBe(`${first}\n`);
    await ironclaw(
      made
        .lineOf("verify")
        .map((word) => ({ [NONCE]: first, [made.at("report.cbor")]: made.at("fresh.cbor") })[word] ?? word),
    );
    await shell(made.at("fresh"), commandsOf(made.at("fresh")).checkquote);
    const again = JSON.parse(await ironclaw([...line.slice(0, 5), "--json"])) as { nonce: string };
    expect(again.nonce).toMatch(/^[0-9a-f]{64}$/);
    expect(again.nonce).not.toBe(first);
  });

  test("may be taken apart without being kept, in either bank", async () => {
    for (const bank of pcrBanks) {
      const line = ["report", "--machine", made.at("machine"), "--nonce", NONCE, "--bank", bank];
      const out = await ironclaw([...line, "--export", made.at(bank), "--json"]);
      expect(JSON.parse(out)).toMatchObject({ bank, nonce: NONCE, directory: made.at(bank), malformed: [] });
      await shell(made.at(bank), commandsOf(made.at(bank)).checkquote);
    }
  });
});
