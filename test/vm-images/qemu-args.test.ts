import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { scanFiles } from "../../vm-images/pin-scan.ts";
import { bootVm, makeBlankDisk } from "../../vm-images/qemu.ts";
import { findFirmware, portNames, qemuArguments, type VmOptions, vmPciDevices } from "../../vm-images/qemu-args.ts";
import { makeTpmState, startSwtpm } from "../../vm-images/swtpm.ts";

const directory = mkdtempSync(join(tmpdir(), "vm-"));
afterAll(() => rmSync(directory, { recursive: true }));
const firmware = { code: "/f/code.fd", vars: "/f/vars.fd" };
const options: VmOptions = {
  esp: "/i/esp.img",
  root: "/i/root,1.img",
  cabinet: "/i/cabinet.img",
  tpmSocket: "/i/tpm.sock",
  directory: "/i",
  variant: "release",
};
const valuesOf = (args: readonly string[], flag: string): string[] =>
  args.flatMap((value, index) => (args[index - 1] === flag ? [value] : []));

describe("qemuArguments", () => {
  const args = qemuArguments(options, firmware);

  it("the image's disks, the cabinet and the firmware code are read-only; what a machine writes are files of its own", () => {
    const drives = valuesOf(args, "-drive");
    expect(drives.filter((drive) => !drive.includes("readonly=on"))).toEqual([
      "if=pflash,format=raw,unit=1,file=/i/vars.fd",
      "if=none,id=state,format=raw,cache=writeback,file=/i/state.img",
      "if=none,id=store,format=raw,cache=writeback,file=/i/store.img",
    ]);
    expect(drives).toContain("if=none,id=root,format=raw,readonly=on,file=/i/root,,1.img");
  });

  it("no network, no display, no reboot, no shared memory pages; the firmware boots the ESP first", () => {
    expect(args.join(" ")).toContain("-vga none -nic none -no-reboot -display none");
    expect(args.join(" ")).toContain("-machine q35,mem-merge=off -accel tcg,thread=single -cpu max -smp 1");
    const devices = valuesOf(args, "-device");
    expect(devices.filter((device) => device.includes("bootindex"))).toEqual([
      "virtio-blk-pci,drive=esp,bootindex=0,disable-legacy=on",
    ]);
    expect(devices).toContain("virtio-blk-pci,drive=cabinet,serial=cabinet,disable-legacy=on");
  });

  it("I11: the disks that outlive a boot may lie anywhere, and take part in flushes", () => {
    const elsewhere = qemuArguments({ ...options, state: "/d/a,b.img", store: "/d/store.img" }, firmware);
    expect(valuesOf(elsewhere, "-drive").slice(-2)).toEqual([
      "if=none,id=state,format=raw,cache=writeback,file=/d/a,,b.img",
      "if=none,id=store,format=raw,cache=writeback,file=/d/store.img",
    ]);
    expect(valuesOf(elsewhere, "-device")).toEqual(
      expect.arrayContaining([
        "virtio-blk-pci,drive=state,serial=state,disable-legacy=on",
        "virtio-blk-pci,drive=store,serial=store,disable-legacy=on",
      ]),
    );
  });

  it("only a dev image has a shell port", () => {
    expect(portNames({ variant: "release" })).toEqual([
      "ironclaw.control",
      "ironclaw.report",
      "workload.2001",
      "workload.2002",
    ]);
    expect(portNames({ variant: "demo" })).not.toContain("ironclaw.shell");
    expect(portNames({ variant: "dev", extraPorts: ["probe"] })).toEqual(
      expect.arrayContaining(["ironclaw.shell", "probe"]),
    );
    expect(() => portNames({ variant: "demo", extraPorts: ["a,b"] })).toThrow(TypeError);
    expect(() => portNames({ variant: "demo", extraPorts: ["ironclaw.report"] })).toThrow(TypeError);
  });

  it("the 2 MB firmware is preferred, the 4 MB one taken when it is alone, and the missing package is named", () => {
    expect(findFirmware({ exists: () => true }).code).toBe("/usr/share/OVMF/OVMF_CODE.fd");
    expect(findFirmware({ exists: (path) => path.includes("_4M") }).vars).toBe("/usr/share/OVMF/OVMF_VARS_4M.fd");
    expect(() => findFirmware({ exists: () => false })).toThrow(/OVMF: not installed/);
  });
});

describe("bootVm", () => {
  it("a machine starts with its TPM, has the documented PCI devices, dumps its memory and stops", async () => {
    const tpm = await makeTpmState({ directory: join(directory, "tpm"), caDirectory: join(directory, "ca") });
    const tpmSocket = join(directory, "tpm.sock");
    await using running = await startSwtpm({ directory: tpm.directory, socket: tpmSocket });
    const image = join(directory, "empty.img");
    writeFileSync(image, new Uint8Array(1 << 20));
    const disks = { esp: image, root: image, cabinet: image };
    await using vm = await bootVm({ ...disks, tpmSocket, directory, variant: "dev", memoryMiB: 128 });
    const buses = (await vm.qmp("query-pci")) as { devices: { id: { vendor: number; device: number } }[] }[];
    const hex = (value: number): string => value.toString(16).padStart(4, "0");
    const devices = buses.flatMap((bus) => bus.devices.map(({ id }) => `${hex(id.vendor)}:${hex(id.device)}`));
    expect(devices.sort()).toEqual(vmPciDevices);
    expect(await vm.qmp("query-tpm")).toHaveLength(1);
    for (const name of portNames({ variant: "dev" })) (await vm.port(name)).destroy();
    expect(() => vm.port("nothing")).toThrow(TypeError);
    await expect(vm.qmp("no-such-command")).rejects.toMatchObject({ code: "ERR_VM_CONTROL" });

    const dump = join(directory, "memory");
    await vm.dumpMemory(dump);
    expect(statSync(dump).size).toBeGreaterThan(128 << 20);
    expect(await scanFiles([dump], "no such needle here")).toEqual([{ file: dump, utf8: 0, utf16le: 0, utf16be: 0 }]);

    await vm.stop();
    for (const [name, size] of [
      ["state.img", 80 << 20],
      ["store.img", 1 << 20],
    ] as const) {
      const made = statSync(join(directory, name));
      expect([made.size, made.blocks, made.mode & 0o777]).toEqual([size, 0, 0o600]);
    }
    expect((await vm.exited).code).toBeNull();
    await running.exited; // --terminate: the TPM ends with the machine
  });

  it("I11: a disk that is there is not made anew", async () => {
    const path = join(directory, "kept.img");
    writeFileSync(path, "what the last boot wrote");
    await makeBlankDisk(path, 4096);
    expect(readFileSync(path, "utf8")).toBe("what the last boot wrote");
  });

  it("what QEMU has to say about a missing file is in the error", async () => {
    const image = join(directory, "empty.img");
    writeFileSync(image, new Uint8Array(4096));
    const disks = { esp: "/none/esp.img", root: image, cabinet: image };
    const missing = bootVm({ ...disks, tpmSocket: join(directory, "none.sock"), directory, variant: "demo" });
    await expect(missing).rejects.toMatchObject({
      code: "ERR_VM_START",
      message: expect.stringMatching(/\/none\/esp\.img|none\.sock/),
    });
  });
});
