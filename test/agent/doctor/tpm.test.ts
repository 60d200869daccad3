import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  agentPcrFinding,
  eventLogFindings,
  type Finding,
  otherExtenders,
  readFirmwareLog,
  tpmFindings,
} from "../../../agent/doctor/index.ts";
import {
  celRecord,
  hashInBank,
  launchEvent,
  launchEventDigests,
  type PcrBank,
  parseFirmwareLog,
} from "../../../attest/index.ts";
import { AGENT_PCR, concatBytes, toHex, utf8 } from "../../../policy/index.ts";
import { type MachineTpm, openTpm } from "../../../seal/index.ts";
import { logEvent, logHeader, separatorType } from "../../support/firmware-log-writer.ts";
import { type SoftwareTpm, type SoftwareTpmOptions, startSwtpm } from "../../support/swtpm.ts";
import { systemTree } from "../../support/system-tree.ts";
import { tpmTool } from "../../support/tpm-tools.ts";

let machine: SoftwareTpm;
beforeAll(async () => {
  machine = await startSwtpm();
});
afterAll(() => machine?.[Symbol.asyncDispose]());

async function asked<T>(use: (tpm: MachineTpm) => Promise<T>, on: SoftwareTpm = machine): Promise<T> {
  await using tpm = await openTpm({ tcti: on.tcti });
  return await use(tpm);
}
const look = (on = machine, now = new Date()) => asked((tpm) => tpmFindings(tpm, now), on);
const of = (findings: readonly Finding[], id: Finding["id"]) => findings.filter((found) => found.id === id);
const level = (findings: readonly Finding[], id: Finding["id"]) => of(findings, id).map((found) => found.level);

describe("a TPM", () => {
  test("I11: as its maker left it is good, and waits for its first launch and its owner", async () => {
    const found = await look();
    expect(found.map(({ id, level: its }) => `${id} ${its}`)).toEqual([
      ...["tpm ok", "tpm-lockout ok", "tpm-hierarchies ok", "tpm-owner warn", "tpm-records warn", "pcr-banks ok"],
      ...["ek-certificate ok", "ek-certificate ok"],
    ]);
    expect(of(found, "tpm")[0]?.got).toMatch(/^family 2\.0, \S+/);
    expect(of(found, "ek-certificate").map(({ got }) => got)).toEqual([
      expect.stringMatching(/^rsa2048 at 0x1c00002, by CN=/),
      expect.stringMatching(/^p384 at 0x1c00016, by CN=/),
    ]);
  });

  test.each<[string, SoftwareTpmOptions, Finding["id"], readonly string[]]>([
    ["without certificates", { endorsement: "none" }, "ek-certificate", ["fail"]],
    ["with one bank", { banks: "sha256" }, "pcr-banks", ["fail"]],
    ["with two banks", { banks: "sha256,sha384" }, "pcr-banks", ["ok"]],
  ])("I9: %s is told from others", async (_, options, id, levels) => {
    await using other = await startSwtpm(options);
    expect(level(await look(other), id)).toEqual(levels);
  });

  test("I9: whose certificate is not valid now, or is another key's, has none that vouches for it", async () => {
    expect(level(await look(machine, new Date("2001-01-01T00:00:00Z")), "ek-certificate")).toEqual(["fail", "fail"]);
    expect(level(await look(machine, new Date("9999-12-01T00:00:00Z")), "ek-certificate")).toEqual(["warn", "warn"]);
    expect(level(await look(machine, new Date("+010000-01-01T00:00:00Z")), "ek-certificate")).toEqual(["fail", "fail"]);
    await using other = await startSwtpm();
    await tpmTool(other, "tpm2_changeeps", "-Q");
    const found = of(await look(other), "ek-certificate");
    // Of two the quick one is made and compared.
    expect(found.map((finding) => finding.level)).toEqual(["ok", "fail"]);
    expect(found[1]).toMatchObject({
      got: expect.stringMatching(/another one|cannot be used/),
      fix: expect.stringContaining("seed"),
    });
  });

  test("I11: at which somebody guesses shows the failed tries, and the lockout", async () => {
    await using other = await startSwtpm();
    await tpmTool(other, "tpm2_nvdefine", "0x1500016", "-C", "o", "-s", "8", "-a", "authread|authwrite", "-p", "right");
    const guess = () => tpmTool(other, "tpm2_nvwrite", "0x1500016", "-P", "wrong", "-i", "/dev/null").catch(() => "");
    const read = () => tpmTool(other, "tpm2_nvread", "0x1500016", "-P", "wrong").catch(() => "");
    await guess();
    await read();
    const once = of(await look(other), "tpm-lockout");
    expect(once).toMatchObject([{ level: "warn", got: expect.stringMatching(/^[12] of \d+ failed tries$/) }]);
    for (let tries = 0; tries < 4; tries += 1) await read();
    expect(of(await look(other), "tpm-lockout")).toMatchObject([
      { level: "warn", got: expect.stringMatching(/^in lockout/) },
    ]);
  });

  test("I2: whose hierarchies are off, or want a password, unseals nothing", async () => {
    await using other = await startSwtpm();
    await tpmTool(other, "tpm2_evictcontrol", "-C", "o", "-c", "0x81010016");
    await tpmTool(other, "tpm2_changeauth", "-c", "endorsement", "x");
    const closed = await look(other);
    expect(of(closed, "tpm-hierarchies")).toMatchObject([{ level: "fail", got: "endorsement authorisation set" }]);
    // The key cannot be made, and no try is made of it: the certificates are judged by what they say.
    expect(level(closed, "ek-certificate")).toEqual(["ok", "ok"]);
    await tpmTool(other, "tpm2_changeauth", "-c", "endorsement", "-p", "x");
    await tpmTool(other, "tpm2_hierarchycontrol", "-C", "p", "shEnable", "clear");
    expect(of(await look(other), "tpm-hierarchies")).toMatchObject([{ level: "fail", got: "owner hierarchy off" }]);
    expect(level(await look(other), "tpm-lockout")).toEqual(["ok"]);
  });

  test("I2: half of whose records are there, or somebody else's, is no TPM of a machine", async () => {
    await using other = await startSwtpm();
    await tpmTool(
      other,
      "tpm2_nvdefine",
      "0x1800023",
      "-C",
      "o",
      "-s",
      "8",
      "-a",
      "ownerread|ownerwrite|authread|authwrite",
    );
    expect(of(await look(other), "tpm-records")).toMatchObject([{ level: "fail", expected: "freeze bits of ours" }]);
    await tpmTool(other, "tpm2_nvundefine", "0x1800023", "-C", "o");
    await tpmTool(
      other,
      "tpm2_nvdefine",
      "0x1800020",
      "-C",
      "o",
      "-a",
      "nt=counter|ownerread|ownerwrite|authread|authwrite",
    );
    expect(of(await look(other), "tpm-records")).toMatchObject([
      { level: "fail", got: "another index, or one never incremented" },
    ]);
  });

  test("I2: that has an owner is said to", async () => {
    await using other = await startSwtpm();
    for (const [name, got] of [
      ["owner", "empty: lockout"],
      ["lockout", ""],
    ] as const) {
      await tpmTool(other, "tpm2_changeauth", "-c", name, "x");
      const [found] = of(await look(other), "tpm-owner");
      expect(found).toMatchObject(
        got === "" ? { level: "ok", got: "both set" } : { level: "warn", got: expect.stringContaining(got) },
      );
    }
  });
});

describe("the agent PCR", () => {
  const EVENTS = ["config", "policy"].map((kind) => launchEvent(kind as "config", kind, new Uint8Array(32).fill(7)));
  const records = EVENTS.map((event, index) => celRecord(index, AGENT_PCR, event));
  const ask = (log: typeof records | null) => asked(({ tss }) => agentPcrFinding(tss, log, 17.9));

  test("I2: that is zero in every bank was extended by nobody, and by somebody as soon as it is not, in one bank", async () => {
    await machine.restart();
    expect(await ask(null)).toMatchObject({ level: "ok", got: "nobody: PCR 13 is zero in sha256, sha384 after 17 s" });
    await tpmTool(machine, "tpm2_pcrextend", `13:sha384=${"5a".repeat(48)}`);
    expect(await ask(null)).toMatchObject({
      level: "fail",
      got: expect.stringMatching(/^somebody has: sha384 [0-9a-f]{16}\.\.\.$/),
    });
    expect(await ask([])).toMatchObject({ level: "fail" });
  });

  test("I2 I9: that the agent's own log explains was extended by the agent alone, and by another as soon as it does not", async () => {
    await machine.restart();
    await asked(async (tpm) => {
      for (const event of EVENTS) await tpm.pcrExtend(AGENT_PCR, launchEventDigests(event));
    });
    expect(await ask(records)).toMatchObject({
      level: "ok",
      got: expect.stringMatching(/^the agent alone: its 2 events/),
    });
    expect(await ask(records.slice(1))).toMatchObject({ level: "fail" });
    await tpmTool(machine, "tpm2_pcrextend", `13:sha384=${"5a".repeat(48)}`);
    expect(await ask(records)).toMatchObject({
      level: "fail",
      got: expect.stringMatching(/^another value in sha384:/),
    });
  });

  test("I2: is looked for in every log that says who measures, and among those who have the TPM open", () => {
    using clean = systemTree();
    expect(otherExtenders(clean.files, null, null).level).toBe("ok");
    const log = parseFirmwareLog(concatBytes(logHeader(), logEvent(AGENT_PCR, 0xd, utf8("sysext"))));
    expect(otherExtenders(clean.files, log, null)).toMatchObject({ level: "fail", got: "1 in the firmware's log" });
    const digests = [{ hashAlg: "sha256", digest: "00".repeat(32) }];
    using systemd = systemTree({
      "/run/log/systemd/tpm2-measure.log": `\u001e${JSON.stringify({ pcr: 11, digests })}\n\u001e${JSON.stringify({ pcr: 13, digests, content: {} })}\n`,
      "/sys/kernel/security/ima/ascii_runtime_measurements": `10 aa ima-ng sha256:00 boot\n13 aa ima-ng sha256:00 boot\n`,
    });
    expect(otherExtenders(systemd.files, null, null)).toMatchObject({
      ...{ level: "fail", got: "1 in systemd's log, 1 in the kernel's integrity log" },
    });
  });

  test("I2: a program that has the TPM open, or a TPM that everybody may open, is a warning", () => {
    using tree = systemTree({ "/proc/4711/comm": "tpm2-abrmd\n", "/dev/tpmrm0": "" });
    mkdirSync(`${tree.root}/proc/4711/fd`);
    symlinkSync("/dev/tpm0", `${tree.root}/proc/4711/fd/3`);
    chmodSync(`${tree.root}/dev/tpmrm0`, 0o660);
    expect(otherExtenders(tree.files, null, null)).toMatchObject({
      level: "warn",
      got: "tpm2-abrmd (pid 4711) has /dev/tpm0",
    });
    expect(otherExtenders(tree.files, null, 4711).level).toBe("ok");
    writeFileSync(`${tree.root}/dev/tpm0`, "");
    chmodSync(`${tree.root}/dev/tpm0`, 0o666);
    expect(otherExtenders(tree.files, null, 4711)).toMatchObject({ level: "warn", got: "/dev/tpm0 has mode 0666" });
  });
});

describe("the event log", () => {
  const LOG = concatBytes(
    logHeader(),
    ...[0, 1, 2, 3, 4, 5, 6, 7].map((pcr) => logEvent(pcr, separatorType, new Uint8Array(4))),
    ...[9, 11].map((pcr) => logEvent(pcr, 0xd, utf8("measured"))),
  );
  const PATH = "/sys/kernel/security/tpm0/binary_bios_measurements";

  async function boot(log: Uint8Array): Promise<void> {
    await machine.restart();
    await asked(async (tpm) => {
      for (const { pcr, data } of parseFirmwareLog(log).events) {
        const digest = (bank: PcrBank) => hashInBank(bank, data);
        await tpm.pcrExtend(pcr, { sha256: digest("sha256"), sha384: digest("sha384") });
      }
    });
  }
  async function ask(
    changes: Readonly<Record<string, string>>,
    log: Uint8Array | null = LOG,
  ): Promise<readonly Finding[]> {
    using tree = systemTree(changes);
    const bytes = (path: string) => (path === PATH ? log : tree.files.bytes(path));
    const files = { ...tree.files, bytes };
    return await asked((tpm) => eventLogFindings(tpm, files, readFirmwareLog(files, PATH)));
  }

  test("I9: that replays to the PCRs in both banks is good, and shows a measured boot", async () => {
    await boot(LOG);
    expect((await ask({})).map(({ id, level: its }) => `${id} ${its}`)).toEqual([
      "event-log ok",
      "boot-not-measured ok",
    ]);
  });

  test("I9: that is not there, is cut off, or says something else is a failure: no report would verify", async () => {
    await boot(LOG);
    for (const [log, got] of [
      [null, `${PATH} cannot be read`],
      [LOG.subarray(0, -3), expect.stringContaining("expected")],
      [concatBytes(LOG, logEvent(7, 0xd, utf8("more"))), "another value in PCR 7 (sha256), PCR 7 (sha384)"],
    ] as const)
      expect((await ask({}, log))[0]).toMatchObject({ id: "event-log", level: "fail", got });
  });

  async function extend(word: string): Promise<string> {
    const digest = (bank: PcrBank) => toHex(hashInBank(bank, utf8(word)));
    await tpmTool(machine, "tpm2_pcrextend", `11:sha256=${digest("sha256")},sha384=${digest("sha384")}`);
    const digests = (["sha256", "sha384"] as const).map((bank) => ({ hashAlg: bank, digest: digest(bank) }));
    return `\u001e${JSON.stringify({ pcr: 11, digests })}\n`;
  }

  test("I9: that the words of systemd's boot go beyond is good, as a verifier takes them, and names them", async () => {
    await boot(LOG);
    for (const word of ["sysinit", "ready"]) await extend(word);
    expect((await ask({}))[0]).toMatchObject({ level: "ok", got: expect.stringContaining("systemd's sysinit, ready") });
  });

  test("I9: that something else goes beyond is a failure, also when systemd says that it was systemd", async () => {
    await boot(LOG);
    const log = await extend("another");
    const [silent] = await ask({});
    expect(silent).toMatchObject({ level: "fail", got: "another value in PCR 11 (sha256), PCR 11 (sha384)" });
    const [said] = await ask({ "/run/log/systemd/tpm2-measure.log": log });
    expect(said).toMatchObject({
      ...{ level: "fail", got: expect.stringMatching(/: systemd has extended it, and says so$/) },
    });
  });

  test("I2: of a boot that measured no kernel says so: PCR 4, 9 or 11 is zero", async () => {
    const short = concatBytes(logHeader(), logEvent(4, separatorType, new Uint8Array(4)));
    await boot(short);
    expect((await ask({}, short))[1]).toMatchObject({
      id: "boot-not-measured",
      level: "warn",
      got: "PCR 9, 11 are zero",
    });
  });
});
