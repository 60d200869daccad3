import { randomBytes } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { openAudit } from "../../agent/audit/open.ts";
import { type CliResult, cli } from "./cli.ts";
import { LAYOUT_PIN, layOut, layOutEndorsement, openStandIn } from "./cli-layout.ts";
import { startSwtpm } from "./swtpm.ts";

export const PIN = "4711-never-shown";
export const NONCE = "5a".repeat(32);
const APPRAISAL = {
  ...{ version: 2, name: "cli", releases: "any", variants: ["demo"], minAssurance: "software-tpm" },
  ...{ freshness: { maxAgeSeconds: 300 }, libraries: "as-released", profiles: "as-released" },
  ...{ keyAttributes: {}, maxViolations: 0, reboot: "warn", firmware: "waived" },
};

/** A folder in which every document of a machine was made by the commands, in this process. */
export interface CliFixture extends AsyncDisposable {
  readonly directory: string;
  at(name: string): string;
  text(name: string): string;
  // biome-ignore lint/suspicious/noExplicitAny: whatever document a test looks into
  json(name: string): any;
  /** A good command line for each command that reads files; a test changes one word of it. */
  lineOf(words: string): string[];
  /** That line with one of the fixture's files replaced by another path. */
  lineWith(words: string, name: string, replacement: string): string[];
}

export interface CliFixtureOptions {
  /** With a machine that answers on `machine/`, its enrolment and a report. Takes seconds. */
  readonly machine?: boolean;
}

/** Keys, delegation, release, sealed credentials and cabinet; `machine` adds a machine. */
export async function makeCliFixture({ machine = false }: CliFixtureOptions = {}): Promise<CliFixture> {
  const directory = mkdtempSync(join(tmpdir(), "cli-"));
  const at = (name: string) => join(directory, name);
  const started: AsyncDisposable[] = [];
  const dispose = async () => {
    for (const each of started.reverse()) await each[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  };
  const text = (name: string) => readFileSync(at(name), "utf8");
  const lines = commandLines(at);
  const lineOf = (words: string) => [...words.split(" "), ...(lines[words] ?? [])];
  try {
    const tpm = await startSwtpm();
    started.push(tpm);
    const image = await layOut(directory);
    await layOutEndorsement(directory, tpm);
    writeFileSync(at("appraisal.json"), JSON.stringify(APPRAISAL));
    mkdirSync(at("directory"));
    writeFileSync(at("empty"), "");
    writeFileSync(at("random"), randomBytes(1 << 20));
    await writeAuditLog(at("audit"));
    copyFileSync(at("audit/0000000000000001.log"), at("audit.log"));
    await makeDocuments(at, lineOf);
    if (machine) {
      started.push(await openStandIn(directory, tpm, image));
      await ironclaw(lineOf("enrol").with(-1, at("enrolment.json")));
      await ironclaw(lineOf("report").with(-1, at("report.cbor")));
    } else await tpm.stop();
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    ...{ directory, at, text, json: (name) => JSON.parse(text(name)), lineOf },
    lineWith: (words, name, replacement) => lineOf(words).map((word) => (word === at(name) ? replacement : word)),
    [Symbol.asyncDispose]: dispose,
  };
}

async function makeDocuments(at: (name: string) => string, lineOf: (words: string) => string[]): Promise<void> {
  for (const name of ["root", "release", "operator"]) await ironclaw(["keys", "new", at(`${name}.pem`)]);
  await ironclaw(lineOf("keys anchors").with(-1, at("anchors.json")));
  await ironclaw(lineOf("keys delegate").with(-1, at("delegation.json")));
  await ironclaw([...lineOf("release predict"), "--out", at("prediction.json")]);
  const sign = lineOf("release sign").map((word) => (word === "second" ? "first" : word));
  await ironclaw(sign.with(-1, at("release.json")));
  await ironclaw(lineOf("seal").with(-1, at("hsm-pin.json")), LAYOUT_PIN);
  const volumeKey = lineOf("seal").filter((word) => word !== "--token-serial" && word !== "1f00aa");
  await ironclaw([...volumeKey.with(-1, at("state.json")), "--kind", "volume-key"]);
  await ironclaw(lineOf("cabinet new").with(2, at("cabinet.img")));
}

async function writeAuditLog(path: string): Promise<void> {
  const log = openAudit({ directory: path, now: () => 0, anchor: null });
  const entry = {
    caller: null,
    scope: "s",
    key: null,
    mechanism: null,
    operation: "connect",
    inputDigest: null,
    approvals: [],
  } as const;
  for (const reason of ["first", "second", "a third one, which is the longest of them all"])
    await log.append({ ...entry, decision: "deny", step: "caller", reason }, "written");
  log.close();
}

/** Runs a command that has to succeed. */
export async function ironclaw(line: readonly string[], input: Uint8Array | string = ""): Promise<string> {
  const { code, out, err } = await cli(line, input);
  expect({ line, code, err }).toEqual({ line, code: 0, err: "" });
  return out;
}

function commandLines(at: (name: string) => string): Readonly<Record<string, readonly string[]>> {
  const ek = ["--ek-certificate", at("ek.der"), "--issuer", at("ek-issuer.pem"), "--ca", at("ek-ca.pem")];
  const anchors = ["--anchors", at("anchors.json")];
  return {
    "appraisal check": [at("appraisal.json")],
    "audit export": [at("audit"), "--out", at("other.jsonl")],
    "audit verify": [at("audit.log")],
    "cabinet list": [at("cabinet.img")],
    "cabinet new": [
      ...[at("other.img"), "--name", "vm-1", "--module", at("module"), "--policy", at("policy.json"), ...anchors],
      ...["--release", at("release.json"), "--sealed", at("hsm-pin.json"), "--sealed", at("state.json")],
    ],
    "cabinet put": [at("cabinet.img"), "sealed", at("hsm-pin.json"), "--add"],
    "cabinet verify": [at("cabinet.img"), "--image", at("image"), "--ek-certificate", at("ek.der")],
    "ek show": [at("ek.der"), "--issuer", at("ek-issuer.pem"), "--ca-set", at("ek-anchors.json")],
    enrol: ["vm-1", "--machine", at("machine"), ...ek, "--out", at("other-enrolment.json")],
    "image predict": [at("image/uki.efi")],
    "keys anchors": ["--root", at("root.pub"), "--operator", at("operator.pub"), "--out", at("other-anchors.json")],
    "keys delegate": [
      ...["--root", at("root.pem"), "--release-key", at("release.pub"), "--last-epoch", "8"],
      ...["--out", at("other-delegation.json")],
    ],
    "keys public": [at("release.pem"), "--out", at("other.pub")],
    measure: [at("module/usr/lib/softhsm/libsofthsm2.so")],
    "policy check": [at("policy.json")],
    "policy explain": [
      ...[at("policy.json"), "--caller", "release-signer", "--key", "release-ec", "--mechanism", "CKM_ECDSA"],
    ],
    "release diff": [at("release.json"), at("release.json"), ...anchors],
    "release predict": ["--image", at("image"), ...anchors, "--policy", at("policy.json")],
    "release show": [at("release.json"), ...anchors],
    "release sign": [
      ...[at("prediction.json"), "--name", "second", "--not-after", "2099-01-01T00:00:00Z", "--epoch", "1"],
      ...["--key", at("release.pem"), "--delegation", at("delegation.json"), ...anchors],
      ...["--out", at("other-release.json")],
    ],
    report: ["--machine", at("machine"), "--nonce", NONCE, "--out", at("other-report.cbor")],
    seal: [
      ...[...ek, "--root", at("root.pub"), "--operator", at("operator.pem")],
      ...["--token-serial", "1f00aa", "--out", at("other-sealed.json")],
    ],
    verify: [
      ...[at("report.cbor"), "--nonce", NONCE, "--reference", at("release.json"), ...anchors],
      ...["--enrolment", at("enrolment.json"), "--policy", at("appraisal.json")],
    ],
  };
}

/** Exactly what a refused command may print: one line, and perhaps a hint. */
export function expectComplaint({ code, out, err }: CliResult, exitCode: number, what: string): void {
  expect(err, what).toMatch(/^ironclaw: [^\n]+ \([A-Z][A-Z_]+\)\n(?:hint: [^\n]+\n)?$/);
  expect(err, what).toMatch(/expected|finding/);
  expect(err, what).not.toContain("ERR_INTERNAL");
  expect(err + out, what).not.toMatch(/\n {4}at /);
  expect(err + out, what).not.toContain(PIN);
  expect(code, `${what}: ${err}`).toBe(exitCode);
}
