import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Enrolment } from "../../attest/index.ts";
import { SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import type { RunningMachine } from "../../vm-images/story/running.ts";
import { useScopes } from "../../vm-images/story/scoped-use.ts";
import { PLACES } from "../../vm-images/story/story.ts";
import { attest, endorse, enrol } from "../../vm-images/story/verifier.ts";
import { DevShell } from "../support/dev-shell.ts";
import { measured } from "../support/measured-pcrs.ts";
import { READER, READER_DEVICES, usbMachine } from "../support/usb-token.ts";
import {
  bootProvisioned,
  codesOf,
  devImage,
  makeTpm,
  type Provisioned,
  provision,
  startProvisioned,
} from "../support/vm-machine.ts";

// A `dev` machine whose token is a smart card reader on USB; each part leaves it as the next one needs it.

const SHIM_UID = 991;
const KEYBOARD = "usb:0627:0001";
const SERIAL_CARD = "1b36:0002";
const OTHER_CARD = "1234:11e8";

const directory = mkdtempSync(join(tmpdir(), "devices-"));
let machine: Provisioned;

beforeAll(async () => {
  const tpm = await makeTpm(join(directory, "tpm"));
  machine = await provision(await devImage("usb"), tpm, directory, await usbMachine(directory, PLACES.cache));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const itemsOf = (findings: readonly { readonly code: string; readonly item: string }[], code: string) =>
  findings.flatMap((finding) => (finding.code === code ? [finding.item] : []));

describe("a machine that shows more than the policy names", () => {
  it("I2: is refused, each device by name and the whole list by the TPM, and its PIN stays sealed", async () => {
    await bootProvisioned(
      machine,
      { extraDevices: [...READER_DEVICES, "usb-kbd", "pci-serial"] },
      async ({ running, launch }) => {
        expect(launch.state).toBe("refused");
        expect(itemsOf(launch.reasons as never, "device-foreign")).toEqual([SERIAL_CARD, KEYBOARD]);
        expect(codesOf(launch)).toEqual(["device-foreign", "device-foreign", "measurement-changed", "pcr-changed"]);
        expect(launch.phases.map(({ phase }) => phase)).not.toContain("logging-in");
        expect((await running.control.status())["devices"]).toEqual(expect.arrayContaining([SERIAL_CARD, KEYBOARD]));
      },
    );
  });
});

describe("a machine whose HSM is on USB", () => {
  let running: RunningMachine;
  let shell: DevShell;
  let enrolment: Enrolment;

  beforeAll(async () => {
    const launched = await startProvisioned(machine, { extraDevices: READER_DEVICES });
    running = launched.running;
    expect(launched.launch).toMatchObject({ state: "serving", reasons: [] });
    enrolment = await enrol(machine.machine.name, await endorse(machine.tpm), running.control);
    shell = await DevShell.open(await running.vm.port("ironclaw.shell"));
  });
  afterAll(async () => {
    shell?.close();
    await running?.stop();
  });

  /** Of every device and interface: vendor, product, whether it is authorised. */
  const usbDevices = async () => {
    const list =
      "cd /sys/bus/usb/devices; for d in [0-9]*; do echo $d $(cat $d/idVendor $d/idProduct) $(cat $d/authorized); done";
    return (await shell.output(`${list} 2>/dev/null`))
      .split("\n")
      .filter((line) => !/^\d+-0:/.test(line))
      .sort();
  };
  const report = () => attest(running.control, enrolment, machine.machine);

  it("I5: has its kernel leave alone what is plugged in, and can load no driver for it", async () => {
    expect(await shell.output("cat /sys/module/usbcore/parameters/authorized_default")).toBe("0");
    expect(await shell.output("cat /proc/sys/kernel/modules_disabled")).toBe("1");
    const modules = (await shell.output("cut -d' ' -f1 /proc/modules")).split("\n");
    expect(modules.filter((name) => /usb|hid|hci/.test(name)).sort()).toEqual([
      "usb_common",
      "usbcore",
      "xhci_hcd",
      "xhci_pci",
    ]);
  });

  it("I5: has the one reader in the shim's /dev, for the shim's user, and nothing else", async () => {
    const pid = await shell.output(
      `for p in /proc/[0-9]*; do grep -qs "^Uid:.${SHIM_UID}\\b" $p/status && echo $p; done; true`,
    );
    expect(pid).toMatch(/^\/proc\/\d+$/);
    const nodes = await shell.output(`cd ${pid}/root/; find dev ! -type d -exec stat -c '%n %F %a %u %t,%T' {} +`);
    expect(nodes).toMatch(/^dev\/bus\/usb\/001\/\d{3} character special file 600 991 bd,\d+$/);
    const [node = ""] = nodes.split(" ");
    // the machine's own node stays root's
    expect(await shell.output(`stat -c '%u %a' /${node}`)).toBe("0 600");
    const held = await shell.output(`ls -l ${pid}/fd`);
    expect(held.split("\n").filter((line) => line.includes(node))).toHaveLength(1);
    expect(await usbDevices()).toEqual(["1-1 08e6 4433 1", "1-1:1.0 1"]);
  });

  it("I7: signs through its scopes, and the reader takes part in each signature", async () => {
    const use = await useScopes(running, machine.machine.token);
    expect(use.signatures.map(({ verified }) => verified)).toEqual([true, true, true, true, true]);
    expect(use.deniedCaller).toMatchObject({ denied: true, sameBytesSucceedFor: SCOPED_UID });
  });

  it("I12: has measured in both banks what was predicted before it was booted, the agent PCR too", async () => {
    for (const bank of ["sha256", "sha384"] as const) {
      const verdict = await attest(running.control, enrolment, machine.machine, bank);
      expect([bank, measured(verdict, bank)]).toEqual([bank, machine.machine.prediction.pcrs[bank]]);
    }
  });

  it("I9: says in its report first what the profile opens, and that every filter is there", async () => {
    const { result, claims } = await report();
    expect(result.tier).toBe("warning");
    expect(result.findings.map(({ code, item }) => [code, item])).toEqual([
      ["profile-exception", `module softhsm: device node ${READER}`],
      ["profile-exception", "profile usb"],
    ]);
    expect(claims.asserted.shims).toMatchObject([
      { token: "signing", role: "active", process: { uid: SHIM_UID, seccompFilters: 3, inheritedFilters: 0 } },
    ]);
  });

  it("I5: is stopped by a keyboard and a card that are plugged in later: neither gets a driver, and no signature is made any more", async () => {
    await running.vm.qmp("device_add", { driver: "usb-kbd", id: "late-keyboard", bus: "usb.0" });
    await running.vm.qmp("device_add", { driver: "edu", id: "late-card", bus: "port0" });
    await expect.poll(async () => (await running.control.status())["state"], { timeout: 60_000 }).toBe("stopped");
    expect(await usbDevices()).toEqual(["1-1 08e6 4433 1", "1-1:1.0 1", "1-2 0627 0001 0"]);
    await expect(useScopes(running, machine.machine.token)).rejects.toThrow(/CKR_(DEVICE_ERROR|FUNCTION_REJECTED)/);
    const shims = await shell.output(`cat /proc/[0-9]*/status | grep -c "^Uid:.${SHIM_UID}\\b"; true`);
    expect(shims).toBe("0");
  });

  it("I9: shows both in the next report, measured, and a verifier refuses the machine", async () => {
    const seen = async () => (await report()).claims.asserted.incidents.length;
    await expect.poll(seen, { timeout: 60_000, interval: 1_000 }).toBe(2); // the list may have been read between the two
    const { result, claims } = await report();
    expect(claims.asserted.incidents).toEqual(
      expect.arrayContaining([
        { what: "device", device: OTHER_CARD, change: "added" },
        { what: "device", device: KEYBOARD, change: "added" },
      ]),
    );
    expect(result.tier).toBe("contraindicated");
    expect(result.findings.map(({ code }) => code)).toEqual(
      expect.arrayContaining(["violations", "launch-state", "launch-device-foreign"]),
    );
  });

  it("I5: notices that the reader goes, too", async () => {
    await running.vm.qmp("device_del", { id: "reader" });
    await expect
      .poll(async () => (await report()).claims.asserted.incidents.at(-1), { timeout: 60_000, interval: 1_000 })
      .toEqual({ what: "device", device: READER, change: "removed" });
  });
});
