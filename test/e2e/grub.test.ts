import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { appraise, defaultQuotePcrs, makeAppraisalPolicy, parseEvidence, verifyEvidence } from "../../attest/index.ts";
import { parseAnchors, verifyRelease } from "../../policy/index.ts";
import { enrol } from "../../vm-images/enrol.ts";
import { PLACES } from "../../vm-images/story/story.ts";
import { DEMO_APPRAISAL, endorse } from "../../vm-images/story/verifier.ts";
import { ironclaw } from "../support/cli-fixture.ts";
import { buildGrubDisk, MENU } from "../support/debian-grub.ts";
import { debianKernel } from "../support/debian-kernel.ts";
import { bootDebian, type DebianMachine, debianMachine, type RunningDebian } from "../support/debian-machine.ts";
import { expectServed, install, pcr, stateOf, typeLines } from "../support/debian-operator.ts";

// One Debian 12 as its installer leaves it: shim, GRUB, a menu. Six boots of it, with the same root and the same TPM.

const SUITE = "bookworm";
const CABINET = "/var/lib/ironclaw/cabinet";

const directory = mkdtempSync(join(tmpdir(), "grub-"));
const at = (name: string) => join(directory, name);
let debian: DebianMachine;
/** The kernel image that was predicted for, and the log of a boot that started it. */
let uki: Uint8Array;

beforeAll(async () => {
  debian = await debianMachine(directory, SUITE);
  uki = debian.kernel.uki;
  writeFileSync(at("anchors.json"), debian.machine.anchors);
  writeFileSync(at("policy.json"), debian.machine.contents.get("policy") ?? "");
  const keys = (name: string) => join(PLACES.keys, `${name}.pem`);
  await ironclaw(["keys", "public", keys("release"), "--out", at("release.pub")]);
  const delegate = ["keys", "delegate", "--root", keys("root"), "--release-key", at("release.pub")];
  await ironclaw([...delegate, "--last-epoch", "100", "--out", at("delegation.json")]);
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

async function boot<T>(entry: string, use: (running: RunningDebian) => Promise<T>): Promise<T> {
  await buildGrubDisk(SUITE, at("esp.img"), { kernel: debian.kernel, entry, uki });
  await using running = await bootDebian(debian);
  return await use(running);
}

/** As agent/docs/install.md says: from the log of a boot, for a kernel image. The release goes into the cabinet, beside none other. */
async function release(running: RunningDebian, name: string, kernelImage: Uint8Array): Promise<void> {
  writeFileSync(at("new.efi"), kernelImage);
  writeFileSync(at("booted.efi"), uki);
  const documents = ["--anchors", at("anchors.json"), "--policy", at("policy.json"), "--out", at("prediction.json")];
  const images = ["--uki", at("new.efi"), "--boot-log", at("boot.log"), "--booted-uki", at("booted.efi")];
  await ironclaw(["release", "predict", "--installed", at("installed"), ...images, ...documents]);
  const key = ["--key", join(PLACES.keys, "release.pem"), "--delegation", at("delegation.json")];
  const dates = ["--not-after", "2099-01-01T00:00:00Z", "--epoch", "1", "--anchors", at("anchors.json")];
  rmSync(at("release.json"), { force: true });
  const sign = ["release", "sign", at("prediction.json"), "--name", name, ...dates, ...key];
  await ironclaw([...sign, "--out", at("release.json")]);
  await running.shell.put("/root/release.json", readFileSync(at("release.json")));
  await running.shell.output(`ironclaw cabinet put ${CABINET} release /root/release.json; sync`);
}

async function report(running: RunningDebian) {
  const { control, machine, tpm } = running;
  const enrolment = await enrol("debian-vm", await endorse(tpm), control);
  const challenge = { nonce: new Uint8Array(randomBytes(32)), bank: "sha256", pcrs: defaultQuotePcrs } as const;
  const challenged = new Date();
  const evidence = parseEvidence(await control.challenge(challenge));
  const verified = await verifyEvidence(evidence, challenge, enrolment, null);
  const judge = async (bytes: Uint8Array) => {
    const reference = await verifyRelease(bytes, parseAnchors(machine.anchors).releaseRoot);
    const policy = makeAppraisalPolicy({ ...DEMO_APPRAISAL.document, variants: ["installed"] });
    return appraise(verified, [reference], policy, { now: new Date(), challenged });
  };
  return { evidence, judge };
}

/** The launch was refused, by these boot PCRs and nothing else. */
async function expectRefused(running: RunningDebian, pcrs: readonly number[]): Promise<void> {
  const { state, reasons } = await stateOf(running, ["serving", "refused"]);
  expect(state, reasons).toBe("refused");
  const found = JSON.parse(reasons ?? "[]") as readonly { code: string; item: string }[];
  const changed = found.filter(({ code }) => code === "pcr-changed").map(({ item }) => Number(/\d+/.exec(item)?.[0]));
  expect(
    changed.filter((index) => index !== 13),
    reasons,
  ).toEqual(pcrs);
}

describe("an ordinary Debian 12 behind shim and GRUB", () => {
  it("I2: started from a kernel and an initrd leaves no log and nothing in PCR 11: doctor says so, and nothing unseals", async () => {
    await boot(MENU.linux(debian.kernel), async (running) => {
      const { shell } = running;
      await install(running);
      expect(await pcr(running, "sha256", 11)).toBe("0".repeat(64));
      const { output } = await shell.run("ironclaw doctor --config /etc/ironclaw/agent.json --json");
      const { findings } = JSON.parse(output) as { findings: readonly Record<string, string>[] };
      const of = (id: string) => findings.filter((finding) => finding["id"] === id);
      expect(of("boot-not-measured")).toMatchObject([
        { level: "warn", got: "PCR 11 is zero", fix: expect.stringContaining("GRUB") },
      ]);
      expect(of("event-log")).toMatchObject([{ level: "fail", fix: expect.stringContaining("GRUB") }]);
      expect(of("cabinet"), "none was put there yet").toMatchObject([
        { level: "fail", got: expect.stringContaining(CABINET) },
      ]);

      await shell.output("cd /root");
      await typeLines(running, "install -m 0640 -g ironclaw cabinet.img /", "sed -i 's#^IRONCLAW_STATE=");
      await typeLines(
        running,
        "systemctl enable --now ironclaw-scope@",
        "mkdir -p /etc/pkcs11/modules",
        "sed s/SCOPE/",
      );
      const started = await shell.run("systemctl start ironclaw-agent");
      expect(started).toMatchObject({ code: 1, output: expect.stringContaining("Assertion failed") });
      const { output: status } = await shell.run("systemctl status --no-pager ironclaw-agent");
      expect(status).toContain("AssertPathExists=/sys/kernel/security/tpm0/binary_bios_measurements was not met");
      expect(await pcr(running, "sha256", 13), "no launch was spent").toBe("0".repeat(64));
      await shell.output("sync");
    });
  });

  it("I2, I9: starts a kernel image in another way than its firmware would, so nothing unseals until that is released; the report replays", async () => {
    await boot(MENU.chainloader, async (running) => {
      await expectRefused(running, [4, 9]);
      const { evidence, judge } = await report(running);
      const { tier, findings } = await judge(running.machine.release);
      expect(tier).toBe("contraindicated");
      expect(findings.map(({ code, item }) => `${code} ${item}`)).toEqual(
        expect.arrayContaining(["pcr-mismatch PCR 4 (sha256)", "pcr-mismatch PCR 9 (sha256)"]),
      );
      writeFileSync(at("boot.log"), evidence.firmwareLog);
      await release(running, "grub-1", uki);
    });
  });

  it("I2, I9: unseals at the next boot by a release that was predicted from that log, and its report is an installed system's", async () => {
    await boot(MENU.chainloader, async (running) => {
      expect(await stateOf(running, ["serving", "refused"])).toMatchObject({ state: "serving" });
      await expectServed(running);
      const { judge } = await report(running);
      const { tier, findings } = await judge(readFileSync(at("release.json")));
      expect(tier, JSON.stringify(findings)).toBe("warning");
      expect(findings.map(({ code }) => code)).toContain("installed-system");
      // The next kernel image is released before it is there.
      const updated = await debianKernel(SUITE, ["quiet"]);
      await release(running, "grub-2", updated.uki);
      uki = updated.uki;
    });
  });

  it("I2, I12: unseals with a kernel image that no boot has seen, which was predicted from the log of the one before it", async () => {
    await boot(MENU.chainloader, async (running) => {
      expect(await stateOf(running, ["serving", "refused"])).toMatchObject({ state: "serving" });
      await expectServed(running);
    });
  });

  it("I2: does not unseal with another menu, nor with a word for the kernel in it", async () => {
    await boot(`  # one line more\n${MENU.chainloader}`, (running) => expectRefused(running, [9]));
    await boot(MENU.chainloader.replace("\n", ` ${debian.kernel.commandLine} init=/bin/sh\n`), async (running) => {
      expect(await running.shell.output("cat /proc/cmdline")).toContain("init=/bin/sh");
      await expectRefused(running, [9, 12]);
    });
  });
});
