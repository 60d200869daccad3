import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  appraise,
  defaultAppraisalPolicy,
  defaultQuotePcrs,
  makeAppraisalPolicy,
  parseEvidence,
  verifyEvidence,
} from "../../attest/index.ts";
import { parseAnchors, verifyRelease } from "../../policy/index.ts";
import { enrol } from "../../vm-images/enrol.ts";
import { DEMO_APPRAISAL, endorse } from "../../vm-images/story/verifier.ts";
import { bootDebian, type DebianMachine, debianMachine, type RunningDebian, SIGNER_UNIT } from "./debian-machine.ts";
import { expectServed, GUIDE, install, pcr, SIGNER, sign, stateOf, typeLines } from "./debian-operator.ts";
import { DEBIAN, type DebianSuite } from "./debian-release.ts";

// One Debian, two boots: the package is installed in the first one, and upgraded, restarted and taken away in the second. What is told of each
// release is the same.

const RESET = { sha256: "0".repeat(64), sha384: "0".repeat(96) };
const WEAKER_ON_DEBIAN = [
  ...["root-not-verified", "memory-not-wiped", "memory-readable", "processes-traceable", "kernel-replaceable"],
  "core-dumps",
];

const isActive = async ({ shell }: RunningDebian, unit: string) =>
  (await shell.run(`systemctl is-active ${unit}`)).output.trim();

/** What agent/docs/install.md calls weaker, doctor says on the machine, and nothing worse. */
async function expectWeakerSaid({ shell }: RunningDebian): Promise<void> {
  const { output } = await shell.run("ironclaw doctor --config /etc/ironclaw/agent.json --json");
  const { findings } = JSON.parse(output) as { findings: readonly { id: string; level: string; got: string }[] };
  const at = (level: string) => findings.filter((finding) => finding.level === level);
  expect(at("fail"), output).toEqual([]);
  expect(at("warn").map(({ id }) => id)).toEqual(expect.arrayContaining([...WEAKER_ON_DEBIAN]));
  const room = at("ok").filter(({ id, got }) => id === "disk" && got.endsWith("MiB free"));
  expect(room, `the agent's volume, which is mounted for it alone: ${output}`).toHaveLength(1);
}

/** @param boots with one, the package is installed and serves, and that is all */
export function describeInstalledDebian(suite: DebianSuite, boots: 1 | 2): void {
  describe(`the package on an ordinary ${DEBIAN[suite].name} with systemd`, () => {
    const directory = mkdtempSync(join(tmpdir(), "sysd-"));
    let debian: DebianMachine;
    beforeAll(async () => {
      debian = await debianMachine(directory, suite);
    });
    afterAll(() => rmSync(directory, { recursive: true, force: true }));

    it("I2, I9: is installed, serves a client that came before it, and its report is never an image's", async () => {
      await using running = await bootDebian(debian);
      await installAndServe(running, suite);
    });

    if (boots === 1) return;

    it("I3, I11: starts with the machine, launches once in a boot, goes on through an upgrade, and a purge leaves nothing", async () => {
      await using running = await bootDebian(debian);
      expect((await stateOf(running, ["serving", "refused"])).state).toBe("serving");
      await expectServed(running);
      await upgrade(running);
      await restart(running);
      await removeAndPurge(running);
    });
  });
}

async function installAndServe(running: RunningDebian, suite: DebianSuite): Promise<void> {
  const { shell, control, machine, tpm } = running;

  // Installed and not started: a launch can be made once in a boot.
  expect(await install(running)).toContain("starts with the first boot that finds /var/lib/ironclaw/cabinet");
  expect(await shell.output("dpkg --verify ironclaw-agent; ironclaw --help | head -1")).toMatch(/^ironclaw: guest/);
  expect(await isActive(running, "ironclaw-agent")).toBe("inactive");
  expect(await shell.output("id -u ironclaw ironclaw-shim 2>/dev/null; id -u ironclaw-relay")).toContain("992");
  for (const bank of ["sha256", "sha384"] as const) {
    expect(await pcr(running, bank, 13), "nobody else on Debian extends the agent PCR").toBe(RESET[bank]);
    const predicted = machine.prediction.pcrs[bank];
    for (const index of [4, 9, 11, 12])
      expect(await pcr(running, bank, index), `PCR ${index}, predicted from the kernel image`).toBe(predicted[index]);
  }

  await shell.output("cd /root");
  await typeLines(running, "install -m 0640 -g ironclaw cabinet.img /", "sed -i 's#^IRONCLAW_STATE=");
  await typeLines(running, "systemctl enable --now ironclaw-scope@", "mkdir -p /etc/pkcs11/modules", "sed s/SCOPE/");
  const security = await shell.output("systemd-analyze security --no-pager ironclaw-agent.service | tail -1");
  const figure = /exposure level for ironclaw-agent.service: ([0-9.]+)/.exec(security)?.[1];
  expect(GUIDE, security).toContain(` ${figure} on ${DEBIAN[suite].name}`);

  // The socket listens before the agent is there; the connection starts it, and waits for the launch.
  expect(await isActive(running, "ironclaw-agent")).toBe("inactive");
  await expectServed(running);
  expect(await stateOf(running, ["serving", "refused"])).toEqual({ state: "serving", reasons: "[]" });
  expect((await sign(running, { uid: 2002, unit: SIGNER_UNIT })).isGood, "another user").toBe(false);
  expect((await sign(running, { uid: 2001, unit: "other.service" })).isGood, "another unit").toBe(false);

  await expectWeakerSaid(running);

  // A verifier.
  const enrolment = await enrol("debian-vm", await endorse(tpm), control);
  const challenge = { nonce: new Uint8Array(randomBytes(32)), bank: "sha256", pcrs: defaultQuotePcrs } as const;
  const challenged = new Date();
  const evidence = parseEvidence(await control.challenge(challenge));
  const verified = await verifyEvidence(evidence, challenge, enrolment, null);
  expect(verified.claims.asserted.image.variant).toBe("installed");
  const release = await verifyRelease(machine.release, parseAnchors(machine.anchors).releaseRoot);
  const judge = (variants: readonly ("demo" | "dev" | "installed" | "release")[], as = release) =>
    appraise(verified, [as], makeAppraisalPolicy({ ...DEMO_APPRAISAL.document, variants: [...variants] }), {
      now: new Date(),
      challenged,
    });
  const codes = ({ findings }: ReturnType<typeof judge>) => findings.map(({ code }) => code);
  expect(defaultAppraisalPolicy.document.variants).toEqual(["release"]);
  expect(judge(["release", "demo", "dev"]).tier).toBe("contraindicated");
  expect(judge(["installed"]).tier).toBe("warning");
  expect(codes(judge(["installed"]))).toContain("installed-system");
  // The signer of releases errs, or lies: the agent's own measured configuration still says what it is.
  const asImage = { ...release, image: { ...release.image, variant: "release" } } as typeof release;
  expect(judge(["release", "installed"], asImage).tier).toBe("contraindicated");
  expect(codes(judge(["release", "installed"], asImage))).toContain("image-variant");

  // A lost agent: the PCR is capped, and here the administrator wants the machine to begin again.
  const capped = await pcr(running, "sha256", 13);
  await typeLines(
    running,
    "mkdir -p /etc/systemd/system/ironclaw-agent",
    "cp /usr/share/doc/ironclaw-agent/reboot-when-lost",
  );
  await shell.output("systemctl daemon-reload; sync");
  expect(capped).not.toBe(RESET.sha256);
  shell.send(
    `for p in /proc/[0-9]*; do [ "$(readlink $p/exe)" = /usr/lib/ironclaw/node ] && kill -KILL $(basename $p); done`,
  );
  const exit = await Promise.race([running.vm.exited, sleep(120_000)]);
  expect(exit, "the machine started again (this one ends instead)").toMatchObject({ code: 0 });
}

async function upgrade(running: RunningDebian): Promise<void> {
  const { shell } = running;
  await shell.output("echo '# ours' >>/etc/ironclaw/spawner.conf");
  expect(await install(running)).toMatch(/the agent that runs goes on[\s\S]* starts with the next boot;/);
  expect(await shell.output("tail -1 /etc/ironclaw/spawner.conf; systemctl is-enabled ironclaw-agent")).toBe(
    "# ours\nenabled",
  );
  await expectServed(running);
}

async function restart(running: RunningDebian): Promise<void> {
  const { shell } = running;
  // Asked to stop, the spawner lets its agent sign the log; the cap that systemd adds does no harm.
  await shell.output("rm -r /etc/systemd/system/ironclaw-agent.service.d; systemctl daemon-reload");
  const before = await pcr(running, "sha384", 13);
  await shell.output("systemctl restart ironclaw-agent");
  expect(await pcr(running, "sha384", 13), "capped once more").not.toBe(before);
  expect(await shell.output("journalctl -b -o cat -u ironclaw-agent")).toMatch(/asked to end; agent PCR capped/);
  const again = await stateOf(running, ["serving", "refused"]);
  expect(again.state, "I3: no second launch in a boot").toBe("refused");
  expect(again.reasons).toMatch(/agent-pcr-used/);
  expect((await sign(running, SIGNER)).isGood, "who connects now is turned away").toBe(false);

  // Killed with everything it had: nobody caps but systemd.
  const open = await pcr(running, "sha256", 13);
  await shell.output("systemctl kill -s KILL ironclaw-agent; sleep 3");
  expect(await pcr(running, "sha256", 13), "I3: capped all the same").not.toBe(open);
  expect(await isActive(running, "ironclaw-agent")).toBe("failed");
}

const LEFT = "find / -xdev -path /root -prune -o -name '*ironclaw*' -print | sort";

async function removeAndPurge(running: RunningDebian): Promise<void> {
  const { shell, control } = running;
  const enabled =
    "systemctl is-enabled ironclaw-agent ironclaw-scope@release-signing.socket; systemctl is-active ironclaw-agent";

  // Nothing is under way any more: the agent PCR is left as it is, and so is what an administrator has set up.
  const closed = await pcr(running, "sha256", 13);
  await shell.output("dpkg --remove ironclaw-agent");
  expect(await pcr(running, "sha256", 13)).toBe(closed);
  expect((await shell.output(LEFT)).split("\n")).toEqual([
    "/etc/ironclaw",
    "/etc/pkcs11/modules/ironclaw-release-signing.module",
    "/etc/systemd/system/multi-user.target.wants/ironclaw-agent.service",
    "/etc/systemd/system/sockets.target.wants/ironclaw-scope@release-signing.socket",
    "/var/lib/dpkg/info/ironclaw-agent.list",
    "/var/lib/dpkg/info/ironclaw-agent.postrm",
    "/var/lib/ironclaw",
  ]);
  expect(await shell.output("ls /var/lib/ironclaw")).toBe("cabinet\nstore");
  expect(await install(running)).toContain("of this package starts with the next boot;");
  expect((await shell.run(enabled)).output.trim(), "not started: as it was killed").toBe("enabled\nenabled\nfailed");

  // With an agent: the PCR is closed before its programs go, or they stay; and nothing restarts the machine meanwhile.
  await shell.output("systemctl start ironclaw-agent");
  const fault = "/etc/systemd/system/ironclaw-cap.service.d";
  await shell.output(`mkdir ${fault}; printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' >${fault}/fault.conf`);
  await shell.output("systemctl daemon-reload");
  const refused = await shell.run("dpkg --purge ironclaw-agent");
  expect(refused).toMatchObject({
    code: 1,
    output: expect.stringContaining("agent PCR: expected the TPM to close it"),
  });
  await shell.output(`rm -r ${fault}; systemctl daemon-reload`);
  const before = await pcr(running, "sha256", 13);
  await shell.output("dpkg --purge ironclaw-agent");
  expect(await pcr(running, "sha256", 13), "I3: capped at the second try").not.toBe(before);
  expect(await shell.output(LEFT)).toBe("");
  expect((await shell.run("getent passwd ironclaw ironclaw-shim ironclaw-relay")).output).toBe("");
  control.close();
}
