import { randomBytes } from "node:crypto";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  appraise,
  defaultQuotePcrs,
  describeFirmwareEvent,
  makeAppraisalPolicy,
  type PcrBank,
  parseEvidence,
  parseFirmwareLog,
  pcrBanks,
  verifyEvidence,
} from "../../attest/index.ts";
import { parseAnchors, verifyRelease } from "../../policy/index.ts";
import { enrol } from "../../vm-images/enrol.ts";
import { type Firmware, vmPaths } from "../../vm-images/qemu-args.ts";
import { openSecureBootKeys, type SecureBootKeys, signUki } from "../../vm-images/secure-boot.ts";
import { PLACES } from "../../vm-images/story/story.ts";
import { DEMO_APPRAISAL, endorse } from "../../vm-images/story/verifier.ts";
import { ironclaw } from "../support/cli-fixture.ts";
import { buildGrubDisk, MENU } from "../support/debian-grub.ts";
import { debianKernel } from "../support/debian-kernel.ts";
import { bootDebian, type DebianMachine, debianMachine, type RunningDebian } from "../support/debian-machine.ts";
import { expectServed, install, pcr, stateOf, typeLines } from "../support/debian-operator.ts";
import { switchSecureBootOff, writeSecureBootStore } from "../support/debian-secure-boot.ts";

// One Debian 12 as its installer leaves it: shim, GRUB, a menu. Eleven boots of it, with the same root and the same TPM; the last five on
// firmware as most clouds have it, which verifies shim, which verifies GRUB and what that starts.

const SUITE = "bookworm";
const CABINET = "/var/lib/ironclaw/cabinet";
/** Firmware, option ROMs, Secure Boot and its authorities, shim's lists. */
const FIRMWARE_PCRS = [0, 2, 7, 14];

const directory = mkdtempSync(join(tmpdir(), "grub-"));
const at = (name: string) => join(directory, name);
let debian: DebianMachine;
/** The kernel image that was predicted for, and the log of a boot that started it. */
let uki: Uint8Array;
/** Whose variable store goes on from boot to boot; none while nothing is verified. */
let firmware: Firmware | undefined;

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
  await using running = await bootDebian(debian, firmware);
  const result = await use(running);
  if (firmware !== undefined) copyFileSync(vmPaths(at("vm")).vars, firmware.vars);
  return result;
}

/** As agent/docs/install.md says: from the log of a boot, for a kernel image. The release goes into the cabinet, beside none other. */
async function release(running: RunningDebian, name: string, kernelImage: Uint8Array): Promise<void> {
  writeFileSync(at("new.efi"), kernelImage);
  writeFileSync(at("booted.efi"), uki);
  const documents = ["--anchors", at("anchors.json"), "--policy", at("policy.json"), "--out", at("prediction.json")];
  const images = ["--uki", at("new.efi"), "--boot-log", at("boot.log"), "--booted-uki", at("booted.efi")];
  if (firmware !== undefined)
    images.push("--secure-boot", "on", "--firmware-log", at("boot.log"), "--firmware-pcrs", FIRMWARE_PCRS.join());
  await ironclaw(["release", "predict", "--installed", at("installed"), ...images, ...documents]);
  const key = ["--key", join(PLACES.keys, "release.pem"), "--delegation", at("delegation.json")];
  const dates = ["--not-after", "2099-01-01T00:00:00Z", "--epoch", "1", "--anchors", at("anchors.json")];
  rmSync(at("release.json"), { force: true });
  const sign = ["release", "sign", at("prediction.json"), "--name", name, ...dates, ...key];
  await ironclaw([...sign, "--out", at("release.json")]);
  await running.shell.put("/root/release.json", readFileSync(at("release.json")));
  await running.shell.output(`ironclaw cabinet put ${CABINET} release /root/release.json; sync`);
}

async function report(running: RunningDebian, bank: PcrBank = "sha256") {
  const { control, machine, tpm } = running;
  const enrolment = await enrol("debian-vm", await endorse(tpm), control);
  const challenge = { nonce: new Uint8Array(randomBytes(32)), bank, pcrs: defaultQuotePcrs } as const;
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

describe("the same Debian on firmware with Microsoft's keys and Secure Boot on, which shim extends by its owner's", () => {
  let keys: SecureBootKeys;
  beforeAll(async () => {
    keys = await openSecureBootKeys(at("keys"));
    uki = await signUki(uki, keys);
    firmware = await writeSecureBootStore(at("vars.fd"), [keys]);
  });

  it("I2, I9: starts the signed kernel image, measured otherwise than without; the report replays, and its log names who vouched for what", async () => {
    await boot(MENU.chainloader, async (running) => {
      await expectRefused(running, [4, 9]);
      const { evidence, judge } = await report(running);
      const { tier, findings } = await judge(running.machine.release);
      expect(tier).toBe("contraindicated");
      expect(findings.map(({ code, item }) => `${code} ${item}`)).toEqual(
        expect.arrayContaining(["pcr-mismatch PCR 4 (sha256)", "pcr-mismatch PCR 9 (sha256)"]),
      );
      expect(findings.map(({ code }) => code)).not.toContain("firmware-separator");
      const { events } = parseFirmwareLog(evidence.firmwareLog);
      const measured = events
        .filter(({ pcr }) => pcr === 7)
        .map((event, index) => describeFirmwareEvent(event, index, "sha256").measured);
      expect(measured[0]).toBe("SecureBoot = 01");
      expect(measured.slice(6)).toEqual([
        "db = certificate of Microsoft Corporation UEFI CA 2011",
        expect.stringMatching(/^SbatLevel = sbat,1,/),
        "MokListRT = certificate of Debian Secure Boot CA",
        "MokListRT = certificate of IronClaw trial db",
      ]);
      writeFileSync(at("boot.log"), evidence.firmwareLog);
      // For a kernel image that no boot has seen.
      const next = await signUki((await debianKernel(SUITE, ["audit=0"])).uki, keys);
      await release(running, "grub-3", next);
      uki = next;
    });
  });

  it("I2, I9, I12: unseals with an image that no boot has seen, predicted from that log; the quote has every PCR of the release, in both banks", async () => {
    await boot(MENU.chainloader, async (running) => {
      expect(await stateOf(running, ["serving", "refused"])).toMatchObject({ state: "serving" });
      await expectServed(running);
      for (const bank of pcrBanks) {
        const { judge } = await report(running, bank);
        const { tier, findings, pcrs } = await judge(readFileSync(at("release.json")));
        expect(tier, JSON.stringify(findings)).toBe("warning");
        const compared = pcrs.filter(({ expected }) => expected !== null);
        expect(compared.map(({ pcr }) => pcr)).toEqual([0, 2, 4, 7, 9, 11, 12, 14]);
        expect(compared.map(({ got }) => got)).toEqual(compared.map(({ expected }) => expected));
      }
    });
  });

  it("I9: who may sign kernel images besides does not change what is sealed to: the verifier sees it, by shim's lists", async () => {
    const stranger = await openSecureBootKeys(at("stranger"));
    firmware = await writeSecureBootStore(at("vars.fd"), [keys, stranger]);
    await boot(MENU.chainloader, async (running) => {
      expect(await stateOf(running, ["serving", "refused"])).toMatchObject({ state: "serving" });
      const { judge } = await report(running);
      expect(await mismatches(judge)).toEqual(["PCR 14 (sha256)"]);
    });
  });

  it("I2, I9: with Secure Boot off again nothing unseals, and the verifier sees why", async () => {
    firmware = await writeSecureBootStore(at("vars.fd"), [keys]);
    await switchSecureBootOff(firmware);
    await boot(MENU.chainloader, async (running) => {
      await expectRefused(running, [4]);
      const { evidence, judge } = await report(running);
      expect(await mismatches(judge)).toEqual(expect.arrayContaining(["PCR 4 (sha256)", "PCR 7 (sha256)"]));
      const { events } = parseFirmwareLog(evidence.firmwareLog);
      const views = events.map((event, index) => describeFirmwareEvent(event, index, "sha256").measured);
      expect(views).toContain("SecureBoot = 00");
    });
  });

  it("I2, I9: started from a kernel and an initrd there is a log with Secure Boot on, and PCR 11 is zero all the same", async () => {
    firmware = await writeSecureBootStore(at("vars.fd"), [keys]);
    await boot(MENU.linux(debian.kernel), async (running) => {
      const { state, reasons } = await stateOf(running, ["serving", "refused"]);
      expect(state, reasons).toBe("refused");
      expect(await pcr(running, "sha256", 11)).toBe("0".repeat(64));
      const { judge } = await report(running);
      const { findings } = await judge(readFileSync(at("release.json")));
      expect(findings.map(({ code, item }) => `${code} ${item}`)).toContain("pcr-unextended PCR 11 (sha256)");
    });
  });
});

async function mismatches(judge: Awaited<ReturnType<typeof report>>["judge"]): Promise<readonly string[]> {
  const { findings } = await judge(readFileSync(at("release.json")));
  return findings.filter(({ code }) => code === "pcr-mismatch").map(({ item }) => item);
}
