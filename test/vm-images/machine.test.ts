import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { chooseAcceleration, type Probe, probeKvm, TCG } from "../../vm-images/acceleration.ts";
import { ImageError } from "../../vm-images/errors.ts";
import type { HostDevices } from "../../vm-images/host/index.ts";
import { requireListedDevices } from "../../vm-images/machine-devices.ts";
import { openMachineFolder } from "../../vm-images/machine-folder.ts";
import { findFirmware, qemuArguments, vmPciDevices } from "../../vm-images/qemu-args.ts";
import { READER, READER_DEVICES } from "../support/usb-token.ts";

const directory = mkdtempSync(join(tmpdir(), "machine-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const at = (name: string) => join(directory, name);

const HSM = "10ee:7021";
const host: HostDevices = {
  pci: (address) =>
    ({ "0000:03:00.0": { id: HSM, isBus: false }, "0000:00:14.0": { id: "8086:a36d", isBus: true } })[address] ?? null,
  usb: () => null,
};

/** Passes these devices to a machine whose policy lists its own devices and `listed`. */
function pass(asked: readonly string[], listed: readonly string[] = []) {
  const parts = {
    ...{ root: "/r", cabinet: "/c", esp: "/e" },
    tpmSocket: "/t",
    directory: "/m",
    variant: "demo",
    extraDevices: asked,
  } as const;
  const args = qemuArguments(parts, { code: "/code", vars: "/vars" });
  return requireListedDevices(args, asked, { devices: [...vmPciDevices, ...listed].sort() }, host);
}
function refusalOf(act: () => unknown): ImageError {
  try {
    act();
  } catch (error) {
    if (error instanceof ImageError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("passing a device to a machine", () => {
  it("I5: what the policy lists is passed, each as often as it is listed", () => {
    expect(pass(READER_DEVICES, ["1b36:000c", "1b36:000d", READER])).toEqual([]);
    expect(pass(["vfio-pci,host=03:00.0"], [HSM])).toEqual([]);
    expect(pass(["usb-host,vendorid=0x08e6,productid=0x4433"], [READER])).toEqual([]);
  });

  it.each([
    [
      "a whole USB controller",
      "vfio-pci,host=00:14.0",
      "8086:a36d",
      /^8086:a36d, with whatever is plugged in below it$/,
    ],
    ["every USB device of a bus", "usb-host,hostbus=1", READER, /^whatever device of the host matches$/],
    ["a PCI device that the policy does not list", "vfio-pci,host=03:00.0", READER, /^10ee:7021$/],
    ["a USB device that the policy does not list", "usb-host,vendorid=0x046d,productid=0xc31c", HSM, /^usb:046d:c31c$/],
    ["a device at a place where there is none", "vfio-pci,host=7f:00.0", HSM, /^a place of the host/],
    ["a keyboard", "usb-kbd", READER, /^usb:0627:0001$/],
    ["a network card", "virtio-net-pci", READER, /^one$/],
    ["shared memory", "ivshmem-plain,memdev=m", READER, /^memory that others map$/],
    ["a driver that nobody knows", "pvpanic", READER, /^something else$/],
    ["a property that nobody knows", "qemu-xhci,wormhole=on", "1b36:000d", /^something else: wormhole$/],
    ["the shell of a dev image", "virtserialport,name=ironclaw.shell", READER, /^a root shell/],
    ["the shell of a dev image on a console", "virtconsole,name=ironclaw.shell", READER, /^a root shell/],
  ])("I5: %s is refused, with what was expected and what to do", (_, device, listed, got) => {
    const refusal = refusalOf(() => pass([device], [listed]));
    expect(refusal).toMatchObject({ code: "ERR_VM_DEVICE", exitCode: 1, got: expect.stringMatching(got) });
    expect(refusal.message).toContain(`device ${device}: refusing to pass it`);
    expect(refusal.hint).not.toBe(undefined);
  });

  it.each([
    "virtconsole,driver=vfio-pci,host=0000:00:14.0",
    "driver=virtconsole,driver=vfio-pci,host=0000:00:14.0",
    '{"driver":"virtconsole","driver":"vfio-pci","host":"0000:00:14.0"}',
  ])("I5: %s has two drivers, of which QEMU takes the last, and is refused", (device) => {
    expect(refusalOf(() => pass([device]))).toMatchObject({ code: "ERR_HOST_MALFORMED", exitCode: 3 });
  });

  it("I5: one that is listed once is not passed twice", () => {
    expect(refusalOf(() => pass(["vfio-pci,host=03:00.0", "vfio-pci,host=0000:03:00.0"], [HSM])).got).toBe(HSM);
  });
});

describe("the acceleration of a machine", () => {
  const never: Probe = () => Promise.reject(new Error("was probed"));
  const order = { directory: at("folder"), imageId: "a", probe: never } as const;

  it("TCG that was asked for needs no probe", async () => {
    expect(await chooseAcceleration({ ...order, want: "tcg" })).toMatchObject(TCG);
  });

  it.runIf(existsSync("/dev/kvm"))(
    "KVM is taken where the image boots under it, with the processor that did, and probed once",
    async () => {
      const tried: string[] = [];
      const probe: Probe = async (cpu) => {
        tried.push(cpu);
        return cpu === "host" ? "failed to set MSR 0x10a" : null;
      };
      for (const _ of [1, 2]) {
        const chosen = await chooseAcceleration({ ...order, want: "auto", probe });
        expect(chosen).toMatchObject({ accel: "kvm", cpu: "host,arch-capabilities=off" });
      }
      expect(tried).toEqual(["host", "host,arch-capabilities=off"]);
      expect(await chooseAcceleration({ ...order, want: "kvm" })).toMatchObject({ accel: "kvm" }); // known: not probed again
      await expect(chooseAcceleration({ ...order, want: "auto", imageId: "b" })).rejects.toThrow("was probed");
    },
  );

  it.runIf(existsSync("/dev/kvm"))(
    "KVM that does not boot the image falls back to TCG, and is an error for who asked for it",
    async () => {
      const probe: Probe = async () => "KVM internal error. Suberror: 1";
      const folder = at("lies");
      const chosen = await chooseAcceleration({ ...order, directory: folder, want: "auto", probe });
      expect(chosen).toMatchObject({
        ...TCG,
        why: expect.stringContaining("-cpu host: KVM internal error. Suberror: 1"),
      });
      const asked = chooseAcceleration({ ...order, directory: folder, want: "kvm" });
      await expect(asked).rejects.toMatchObject({ code: "ERR_VM_START", hint: "--accel tcg" });
    },
  );

  it("a probe ends by itself, with a boot or with a reason", async () => {
    // Nothing to boot: whatever KVM is here, the initrd is not reached.
    const disk = at("blank.img");
    writeFileSync(disk, new Uint8Array(1 << 20));
    const probe = probeKvm(at("no-firmware"), disk);
    expect(await probe("host")).toMatch(/\S/);
    expect(findFirmware().code).toMatch(/OVMF/);
  });
});

describe("a machine's folder", () => {
  it("I11: is made once, private, with a TPM and what it takes to seal to it, and found again as it is", async () => {
    const folder = at("vm-1");
    const first = await openMachineFolder(folder);
    expect(first.made).toEqual(["tpm", "state", "store"]);
    expect(statSync(folder).mode & 0o777).toBe(0o700);
    for (const name of ["ek.der", "ek-issuer.pem", "ek-ca.pem"])
      expect(existsSync(join(folder, "tpm", name))).toBe(true);
    const tpm = readFileSync(join(folder, "tpm/tpm2-00.permall"));
    const again = await openMachineFolder(folder);
    expect(again.made).not.toContain("tpm");
    expect(again.ekCertificate).toEqual(first.ekCertificate);
    expect(readFileSync(join(folder, "tpm/tpm2-00.permall")).equals(tpm)).toBe(true);
    // What the operator keeps beside them, a cabinet for instance, is his.
    writeFileSync(join(folder, "cabinet.img"), "");
    expect((await openMachineFolder(folder)).made).toEqual(["state", "store"]);
  });

  const refusedFolder = (path: string) => openMachineFolder(path).then(() => null, String);

  it("I11: is not made of a folder with something else in it, of one that others may write to, or of somebody else's: nothing is written there", async () => {
    const documents = at("documents");
    mkdirSync(documents);
    writeFileSync(join(documents, "letter.txt"), "mine");
    await expect(openMachineFolder(documents)).rejects.toMatchObject({
      ...{ code: "ERR_VM_START", exitCode: 4, got: "one with letter.txt in it and no TPM" },
      hint: expect.stringContaining("not there yet"),
    });
    expect(readdirSync(documents)).toEqual(["letter.txt"]);
    const open = at("open");
    mkdirSync(open);
    chmodSync(open, 0o777);
    expect(await refusedFolder(open)).toContain("expected one that nobody else may write to, got mode 0777");
    expect(readdirSync(open)).toEqual([]);
    // Root's for everybody else; for root, a folder of another user's.
    const foreign = process.geteuid?.() === 0 ? at("foreign") : "/usr";
    mkdirSync(foreign, { recursive: true });
    if (foreign !== "/usr") chownSync(foreign, 4711, 4711);
    expect(await refusedFolder(foreign)).toContain("expected one of this user's, got one of uid");
  });

  it("I11: of a boot that was cut off before its TPM was whole is taken up again", async () => {
    const folder = at("cut-off");
    mkdirSync(join(folder, "tpm"), { recursive: true });
    writeFileSync(join(folder, "tpm/setup.log"), "");
    expect((await openMachineFolder(folder)).made).toContain("tpm");
  });
});
