import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openMachine } from "../../agent/cli/machine-ports.ts";
import {
  type AppraisalPolicy,
  type AttestationResult,
  appraise,
  defaultQuotePcrs,
  type Evidence,
  encodeCel,
  encodeEvidence,
  firmwareReferencePcrs,
  firmwareReferenceValues,
  makeAppraisalPolicy,
  measureExtraData,
  parseCel,
  parseEvidence,
  verifyEvidence,
} from "../../attest/index.ts";
import { parseAnchors, type Release, verifyRelease } from "../../policy/index.ts";
import { loadSigningKey, openTpm, signRelease } from "../../seal/index.ts";
import { INTRUDER_UID } from "../../vm-images/story/demo-policy.ts";
import { Progress } from "../../vm-images/story/progress.ts";
import { type RunOrder, startMachine } from "../../vm-images/story/running.ts";
import { PLACES, prepare } from "../../vm-images/story/story.ts";
import { addPolicyRule, changeLibraryByte } from "../../vm-images/story/tamper.ts";
import { addInitrdFile, widenProfile } from "../../vm-images/story/tampered-image.ts";
import { DEMO_APPRAISAL, endorse, enrol } from "../../vm-images/story/verifier.ts";
import { layOutVerifier, type VerifierFolder } from "../../vm-images/story/verifier-folder.ts";
import { cli } from "../support/cli.ts";
import { openTab, signIn, startBrowser } from "../support/page-browser.ts";
import { startSwtpm } from "../support/swtpm.ts";
import { startVerifier, type VerifierProcess } from "../support/verifier-process.ts";

// One machine and one verifier service for all of this file. Each test leaves both as the next one needs them: a machine's reports follow
// each other, which is what the last one breaks.

const NAME = "demo-vm";
const directory = mkdtempSync(join(tmpdir(), "fleet-"));
const at = (name: string) => join(directory, name);

let stage: Awaited<ReturnType<typeof prepare>>;
let folder: VerifierFolder;
let verifier: VerifierProcess;
let browser: Browser;

beforeAll(async () => {
  stage = await prepare(new Progress({ write: () => true }), directory, "demo");
  folder = await layOutVerifier(at("service"), stage.tpm, stage.machine);
  verifier = await startVerifier(folder);
  browser = await startBrowser();
});
afterAll(async () => {
  await browser?.close();
  await verifier?.stop();
  rmSync(directory, { recursive: true, force: true });
});

/** One boot of the machine, on its TPM and disks; `use` is given the directory of its ports. */
async function boot<T>(name: string, use: (ports: string) => Promise<T>, changes: Partial<RunOrder> = {}): Promise<T> {
  const ports = at(name);
  const { image, machine, tpm, disks } = stage;
  const order = { image, contents: machine.contents, tpmDirectory: tpm.directory, directory: ports, disks };
  const running = await startMachine({ ...order, ...changes });
  try {
    await running.launched();
    running.control.close(); // a port takes one connection at a time
    return await use(ports);
  } finally {
    await running.stop();
  }
}

interface Machine {
  readonly state: string;
  readonly flags: readonly string[];
  readonly lastReport: number;
  readonly result: AttestationResult | null;
  readonly reasons: readonly { readonly code: string; readonly item: string }[] | null;
  readonly events: readonly { readonly kind: string; readonly detail: string }[];
}
const seen = async () => (await verifier.get(`/v1/machines/${NAME}`)) as Machine;
const service = () => ["--to", verifier.url];

/** One report, carried by the command. */
const push = (ports: string) =>
  cli(["verifier", "push", "--machine", ports, "--name", NAME, ...service(), "--once", "--json"]);

/** What the verifier finds in the next report of a machine that was booted like this. */
async function judged(name: string, changes: Partial<RunOrder> = {}): Promise<Machine> {
  await boot(name, push, changes);
  return seen();
}

const findings = ({ result }: Machine) => (result?.findings ?? []).map(({ code, item }) => `${code} ${item}`);

/** A fresh report of a running machine over this nonce. */
async function reportOver(ports: string, nonce: Uint8Array): Promise<Uint8Array> {
  const control = await openMachine(ports);
  try {
    return await control.challenge({ nonce, bank: "sha256", pcrs: defaultQuotePcrs });
  } finally {
    control.close();
  }
}

/** The machine's report over a fresh challenge of its own, changed on the way; what the verifier says of it. */
async function altered(ports: string, change: (evidence: Evidence, nonce: Uint8Array) => Evidence | Promise<Evidence>) {
  const nonce = await verifier.challenge(NAME);
  const report = parseEvidence(await reportOver(ports, nonce));
  return verifier.hand(encodeEvidence(await change(report, nonce)), nonce);
}

/** A verifier without a service: one verified report of a running machine, to be judged by what is given. */
async function judgeHere(ports: string): Promise<(release: Release, policy: AppraisalPolicy) => AttestationResult> {
  const control = await openMachine(ports);
  try {
    const enrolment = await enrol(NAME, await endorse(stage.tpm), control);
    const challenged = new Date();
    const nonce = crypto.getRandomValues(new Uint8Array(32));
    const challenge = { nonce, bank: "sha384" as const, pcrs: defaultQuotePcrs };
    const verified = await verifyEvidence(
      parseEvidence(await control.challenge(challenge)),
      challenge,
      enrolment,
      null,
    );
    return (release, policy) => appraise(verified, [release], policy, { now: new Date(), challenged });
  } finally {
    control.close();
  }
}

/** A report as another TPM would sign it: everything is this machine's but the key. */
async function signedByAnother(evidence: Evidence, nonce: Uint8Array): Promise<Evidence> {
  await using swtpm = await startSwtpm();
  await using tpm = await openTpm({ tcti: swtpm.tcti });
  await using ak = await tpm.createAttestationKey();
  const bound = { ...evidence, ak: ak.publicArea };
  const { attest, signature } = await tpm.quote(ak, measureExtraData(nonce, bound), "sha256", defaultQuotePcrs);
  return { ...bound, quote: attest, signature };
}

const codesOf = ({ error }: { error?: { reasons?: readonly { code: string; item: string }[] } }) =>
  (error?.reasons ?? []).map(({ code, item }) => `${code} ${item}`);

describe("a machine that a verifier service watches", () => {
  const snapshot = { tpm: at("snapshot-tpm"), disks: at("snapshot-disks") };
  let first: Uint8Array;

  it("I9: enrols with an operator's one-time token, and its first report is affirming; others' are refused, each for its own reason", async () => {
    await boot("first", async (ports) => {
      const token = at("machine.token");
      const operator = join(folder.folder, "operator.token");
      const invited = await cli(["verifier", "invite", NAME, ...service(), "--token", operator, "--out", token]);
      expect(invited).toMatchObject({ code: 0, err: "" });
      const enrolment = ["verifier", "enrol", NAME, "--machine", ports, ...service(), "--token", token];
      const line = [...enrolment, "--issuer", folder.issuer, "--json"];
      expect(await cli(line)).toMatchObject({ code: 0, err: "" });
      expect(await cli(line), "the token counts once").toMatchObject({ code: 1 });

      expect(await push(ports)).toMatchObject({ code: 0, err: "" });
      const { state, flags, lastReport, result } = await seen();
      expect([state, flags, result?.tier, result?.assurance]).toEqual(["affirming", [], "affirming", "software-tpm"]);
      first = await verifier.report(NAME, lastReport);

      // None of these is the machine's word, so none of them changes what is said of it.
      const replayed = await verifier.hand(first, await verifier.challenge(NAME));
      expect(replayed.status).toBe(422);
      const overAnother = ["extra-data quote extraData (nonce, claims and logs)", "claim eat_nonce"];
      expect(codesOf(replayed)).toEqual([`replayed report ${lastReport}`, ...overAnother]);
      const nonces = [await verifier.challenge(NAME), await verifier.challenge(NAME)] as const;
      const other = await verifier.hand(await reportOver(ports, nonces[0]), nonces[1]);
      expect(codesOf(other)).toEqual(overAnother);
      const used = await verifier.hand(await reportOver(ports, nonces[1]), nonces[1]);
      expect([used.status, used.error?.code]).toEqual([410, "nonce-over"]);

      expect(codesOf(await altered(ports, signedByAnother))).toContain("ak-not-enrolled ak name");
      const cut = await altered(ports, (evidence) => ({
        ...evidence,
        agentLog: encodeCel(parseCel(evidence.agentLog).slice(0, -1)),
      }));
      expect(codesOf(cut)).toContain("pcr-replay PCR 13 (sha256)");
      expect(codesOf(cut)).toContain("claim-measured launch serving");
      expect(await seen()).toMatchObject({ state: "affirming", flags: [] });
    });
  });

  it("I9: is shown as affirming on the page, with expected and measured side by side", async () => {
    const tab = await openTab(browser);
    await tab.page.goto(`${verifier.url}/`);
    await signIn(tab.page, readFileSync(join(folder.folder, "viewer.token"), "utf8").trim());
    const row = tab.page.getByRole("row").filter({ hasText: NAME });
    await row.waitFor();
    expect(await row.textContent()).toMatch(/Affirming/);
    await row.getByRole("link", { name: NAME }).click();
    await tab.page.getByText("PKCS#11 library measured").waitFor();
    const text = await tab.page.locator("main").textContent();
    expect(text).not.toMatch(/differs/);
    expect(tab.faults).toEqual([]);
    expect(tab.requests.filter((url) => !url.startsWith(verifier.url))).toEqual([]);
    await tab.close();
  });

  it("I9: after a restart is a warning that it has rebooted, and affirming with the next report; the firmware PCRs of its first boot, signed into a release, hold in this one", async () => {
    await boot("second", async (ports) => {
      await push(ports);
      const restarted = await seen();
      expect([restarted.state, restarted.flags]).toEqual(["warning", ["rebooted"]]);
      // A software TPM that is killed loses what its clock went since it was last saved; after a quick boot that shows.
      const told = findings(restarted).filter((finding) => finding !== "clock-lags quote clockInfo.clock");
      expect(told).toEqual(["rebooted quote clockInfo"]);
      await push(ports);
      expect(await seen()).toMatchObject({ state: "affirming", flags: ["rebooted"] });

      const judge = await judgeHere(ports);
      const policy = makeAppraisalPolicy({ ...DEMO_APPRAISAL.document, firmware: "pinned" });
      const { releaseRoot } = parseAnchors(stage.machine.anchors);
      const release = await verifyRelease(stage.machine.release, releaseRoot);
      const pinned = await verifyRelease(await pinFirmware(release, parseEvidence(first).firmwareLog), releaseRoot);
      expect(judge(pinned, policy)).toMatchObject({ tier: "affirming", findings: [] });
      expect(judge(release, policy).tier).toBe("contraindicated");
    });
  });

  it("I1: with one byte of its library changed is contraindicated by that library, and the TPM's own answer is there", async () => {
    const { machine } = stage;
    const changed = await judged("library", { contents: changeLibraryByte(machine.library)(machine.contents) });
    expect([changed.state, changed.reasons]).toEqual(["contraindicated", []]);
    expect(changed.flags).toContain("changed");
    expect(findings(changed)).toContain(`event-mismatch library ${machine.library}`);
    expect(findings(changed)).toContain("launch-tpm-answer TPM2_Unseal");
    expect(findings(changed).filter((finding) => finding.startsWith("pcr-"))).toEqual([]);
  });

  it("I2, I6: with a rule added to its policy and a file to its initrd is contraindicated by both, each by its own name", async () => {
    const esp = at("initrd-esp.img");
    await addInitrdFile(stage.image, PLACES.cache, esp);
    const added = await judged("policy", { esp, contents: addPolicyRule(INTRUDER_UID)(stage.machine.contents) });
    expect([added.state, added.reasons]).toEqual(["contraindicated", []]);
    const wrong = findings(added).filter((finding) => /^(pcr|event)-/.test(finding));
    expect(wrong.sort()).toEqual([
      "event-mismatch policy policy",
      "pcr-mismatch PCR 11 (sha256)",
      "pcr-mismatch PCR 4 (sha256)",
      "pcr-mismatch PCR 9 (sha256)",
    ]);
  });

  it("I5: with a wider sandbox profile is contraindicated by the profile, and by the boot PCRs that hold its root disk", async () => {
    cpSync(stage.tpm.directory, snapshot.tpm, { recursive: true });
    cpSync(dirname(stage.disks.state), snapshot.disks, { recursive: true });
    const disks = await widenProfile(stage.image, PLACES.cache, at("profile-disks"));
    const wider = await judged("profile", disks);
    expect([wider.state, wider.reasons]).toEqual(["contraindicated", []]);
    expect(findings(wider)).toContain("event-mismatch profile local");
    expect(findings(wider)).toContain("pcr-mismatch PCR 9 (sha256)");
  });

  it("I9: on TPM and disks of before its last boot, started as often since, is refused as another boot, and flagged", async () => {
    cpSync(snapshot.tpm, stage.tpm.directory, { recursive: true });
    cpSync(snapshot.disks, dirname(stage.disks.state), { recursive: true });
    const restored = await judged("restored");
    expect([restored.state, restored.result]).toEqual(["refused", null]);
    expect(restored.reasons?.map(({ code }) => code)).toContain("boot-forked");
    expect(restored.flags).toContain("rolled-back");
  });

  it("I9: has all of it in its history, on the page too", async () => {
    const { events } = await seen();
    const kinds = events.map(({ kind }) => kind);
    for (const kind of ["enrolled", "rejected", "rebooted", "changed", "rolled-back"]) expect(kinds).toContain(kind);
    const tab = await openTab(browser);
    await tab.page.goto(`${verifier.url}/#/machines/${NAME}`);
    await signIn(tab.page, readFileSync(join(folder.folder, "viewer.token"), "utf8").trim());
    await tab.page.getByText("boot-forked").first().waitFor();
    expect(await tab.page.locator("main").textContent()).toMatch(/Refused/);
    expect(tab.faults).toEqual([]);
    await tab.close();
    expect(await verifier.stop(), "it ends in order").toBe(0);
  });
});

/** The release with the firmware PCRs that this log replays to. */
async function pinFirmware(release: Release, firmwareLog: Uint8Array): Promise<Uint8Array> {
  const firmware = firmwareReferenceValues(firmwareLog, firmwareReferencePcrs);
  const pcrs = {
    sha256: { ...release.pcrs.sha256, ...firmware.sha256 },
    sha384: { ...release.pcrs.sha384, ...firmware.sha384 },
  };
  const { image, epoch, notBefore, notAfter, events, delegation } = release;
  const draft = { name: "pinned", image, epoch, notBefore, notAfter, pcrs, events, raise: false };
  const [root, releaseKey] = await Promise.all(
    ["root", "release"].map((name) => loadSigningKey(join(PLACES.keys, `${name}.pem`))),
  );
  if (root === undefined || releaseKey === undefined) throw new Error("no keys");
  return signRelease(draft, { releaseKey, delegation, rootKeyPem: root.spkiPem });
}
