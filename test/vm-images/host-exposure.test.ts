import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Exposure,
  type HostDevices,
  hostExposure,
  readHostConfiguration,
  sysfsDevices,
} from "../../vm-images/host/index.ts";
import { qemuWords } from "../../vm-images/host/words.ts";
import { vmPciDevices } from "../../vm-images/qemu-args.ts";
import { GOOD, lineOf, OURS } from "../support/host-configurations.ts";
import { READER, READER_DEVICES } from "../support/usb-token.ts";

/** The host's own devices, for configurations that name them by place. */
const HSM = "10ee:7021";
const host: HostDevices = {
  pci: (address) =>
    ({ "0000:03:00.0": { id: HSM, isBus: false }, "0000:00:14.0": { id: "8086:a36d", isBus: true } })[address] ?? null,
  usb: (bus, device) =>
    bus === 1 && device === 4
      ? { id: READER, isBus: false }
      : bus === 1 && device === 2
        ? { id: "usb:1d6b:0002", isBus: true }
        : null,
};
const exposureOf = (text: string, devices: readonly string[] = vmPciDevices) =>
  hostExposure(readHostConfiguration(text), { devices }, host);
const short = (found: readonly Exposure[]) => found.map(({ id, level }) => `${id} ${level}`);
const thrown = (act: () => unknown): unknown => {
  try {
    act();
  } catch (error) {
    return error;
  }
  return undefined;
};

describe("a QEMU command line", () => {
  it("of this project's own machine exposes nothing beyond its policy, as it is typed and as /proc has it", () => {
    expect(exposureOf(lineOf(OURS))).toEqual([]);
    expect(exposureOf(["/usr/bin/qemu-system-x86_64", ...OURS, ""].join("\0"))).toEqual([]);
    expect(
      exposureOf(
        `LC_ALL=C \\\n/usr/bin/qemu-system-x86_64 \\\r\n  ${OURS.map((word) => `"${word}"`).join(" \\\n  ")}\n`,
      ),
    ).toEqual([]);
  });

  it("with a listed reader exposes nothing; without the list each device is named", () => {
    const line = lineOf([...OURS, ...READER_DEVICES.flatMap((device) => ["-device", device])]);
    expect(exposureOf(line, [...vmPciDevices, "1b36:000c", "1b36:000d", READER])).toEqual([]);
    const found = exposureOf(line);
    expect(short(found)).toEqual(["emulated fail", "emulated fail", "emulated fail"]);
    expect(found[2]).toMatchObject({
      item: "-device usb-ccid,id=reader",
      expected: "a device that the policy lists",
      got: READER,
    });
  });

  it("with one disk more than the policy has places for says so, and that no image knows it", () => {
    const more = ["-drive", "if=none,id=x,format=raw,file=/x", "-device", "virtio-blk-pci,drive=x,serial=loot"];
    expect(short(exposureOf(lineOf([...OURS, ...more])))).toEqual(["emulated fail", "disk fail"]);
  });

  it.each([
    ["a whole USB controller of the host", ["-device", "vfio-pci,host=0000:00:14.0"], ["controller fail"]],
    ["an unlisted PCI device of the host", ["-device", "vfio-pci,host=03:00.0"], ["device fail"]],
    ["a place of the host that nobody looked at", ["-device", "vfio-pci,host=0000:7f:00.0"], ["device fail"]],
    ["an address that is none", ["-device", "vfio-pci,host=here"], ["unknown fail"]],
    ["an unlisted USB device", ["-device", "usb-host,vendorid=0x046d,productid=0xc31c"], ["device fail"]],
    ["a hub, with all that is plugged in", ["-device", "usb-host,hostbus=1,hostaddr=2"], ["controller fail"]],
    ["every device of a bus", ["-device", "usb-host,hostbus=1"], ["controller fail"]],
    ["every device of a maker", ["-device", "usb-host,vendorid=0x046d"], ["controller fail"]],
    ["the old way to pass one", ["-usbdevice", "host:046d:c31c"], ["controller fail"]],
    ["a network card", ["-nic", "user"], ["network fail"]],
    [
      "a network backend with its card",
      ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"],
      ["network fail", "network fail"],
    ],
    ["a shared folder", ["-virtfs", "local,path=/srv,mount_tag=srv"], ["shared-folder fail"]],
    ["virtiofs", ["-device", "vhost-user-fs-pci,chardev=fs,tag=srv"], ["shared-folder fail"]],
    [
      "the guest agent's channel",
      ["-device", "virtserialport,bus=serial0.0,name=org.qemu.guest_agent.0"],
      ["guest-agent fail"],
    ],
    ["SPICE on the network", ["-spice", "port=5900,disable-ticketing=on"], ["display fail"]],
    ["SPICE on a Unix socket", ["-spice", "unix=on,addr=/run/spice"], ["display warn"]],
    ["VNC", ["-vnc", ":1"], ["display fail"]],
    ["VNC on a Unix socket", ["-vnc", "unix:/run/vnc"], ["display warn"]],
    ["vsock", ["-device", "vhost-vsock-pci,guest-cid=3"], ["vsock fail"]],
    ["shared memory", ["-device", "ivshmem-plain,memdev=m"], ["shared-memory fail"]],
    [
      "guest memory that others map",
      ["-object", "memory-backend-file,id=m,size=512M,mem-path=/dev/shm/m,share=on"],
      ["shared-memory fail"],
    ],
    ["a debugger", ["-s"], ["debugger fail"]],
    ["a debugger by name", ["-gdb", "tcp::1234"], ["debugger fail"]],
    ["a debug port", ["-device", "isa-debugcon,iobase=0x402,chardev=c"], ["debug-port warn"]],
    ["a monitor on TCP", ["-monitor", "tcp:127.0.0.1:4444,server,nowait"], ["network-socket fail"]],
    [
      "a monitor on TCP by its backend",
      ["-chardev", "socket,id=c,host=127.0.0.1,port=44", "-mon", "chardev=c"],
      ["network-socket fail"],
    ],
    ["a console on TCP", ["-serial", "telnet::4321,server"], ["network-socket fail"]],
    ["a kernel from the host", ["-kernel", "vmlinuz", "-append", "quiet"], ["firmware fail", "firmware fail"]],
    ["a snapshot of all disks", ["-snapshot"], ["snapshot fail"]],
    ["a state to go on from", ["-incoming", "exec:cat state"], ["snapshot fail"]],
    ["strings for the firmware", ["-smbios", "type=11,value=io.systemd.credential:x=y"], ["injected warn"]],
    ["files for the guest", ["-fw_cfg", "name=opt/x,file=/x"], ["injected warn"]],
    ["a ROM for a device", ["-device", "virtio-rng-pci,romfile=/x"], ["emulated fail", "injected warn"]],
    ["huge pages", ["-mem-path", "/dev/hugepages"], ["hugepages warn"]],
    ["the shell of a dev image", ["-device", "virtserialport,name=ironclaw.shell"], ["port fail"]],
    ["a port of another name", ["-device", "virtserialport,name=backdoor"], ["port warn"]],
    ["an option that nobody knows", ["-readconfig", "/etc/more.cfg"], ["unknown fail"]],
    ["a driver that nobody knows", ["-device", "pvpanic"], ["unknown fail"]],
    ["a word that is no option", ["/tmp/disk.img"], ["disk fail"]],
    ["a disk of another machine", ["-drive", "if=none,id=n,format=raw,file=nbd:localhost:10809"], ["unknown fail"]],
  ])("with %s says so", (_, more, found) => {
    expect(short(exposureOf(lineOf([...OURS, ...more])))).toEqual(found);
  });

  it("a listed device of the host is no finding, however its place is written", () => {
    for (const place of [
      "vfio-pci,host=03:00.0",
      "vfio-pci,host=0000:03:00.0",
      '{"driver":"vfio-pci","host":"0000:03:00.0"}',
      "vfio-pci,sysfsdev=/sys/bus/pci/devices/0000:03:00.0",
    ])
      expect(exposureOf(lineOf([...OURS, "-device", place]), [...vmPciDevices, HSM])).toEqual([]);
    for (const place of ["usb-host,vendorid=0x8e6,productid=17459", "usb-host,hostbus=1,hostaddr=4"])
      expect(exposureOf(lineOf([...OURS, "-device", place]), [...vmPciDevices, READER])).toEqual([]);
  });

  const without = (...gone: readonly RegExp[]) =>
    OURS.filter(
      (word, index) =>
        !gone.some(
          (each) =>
            each.test(word) ||
            (each.test(OURS[index + 1] ?? "") && word.startsWith("-") && !/nodefaults|no-reboot|no-user/.test(word)),
        ),
    );
  it.each([
    ["a TPM", without(/^tpm-crb/), ["tpm fail"]],
    ["UEFI firmware", without(/if=pflash/), ["firmware fail"]],
    ["the options against sleep", without(/ICH9-LPC/), ["suspend fail", "suspend fail"]],
    ["-nodefaults", OURS.filter((word) => word !== "-nodefaults"), []],
    [
      "-nodefaults and -nic none",
      without(/^none$/).filter((word) => word !== "-nodefaults"),
      ["network fail", "emulated fail"],
    ],
    ["mem-merge=off", OURS.map((word) => word.replace(",mem-merge=off", "")), ["memory-merge warn"]],
    [
      "read-only on root and cabinet",
      OURS.map((word) => (/id=(?:root|cabinet)/.test(word) ? word.replace("readonly=on,", "") : word)),
      ["disk fail", "disk fail"],
    ],
    [
      "read-only on the boot disk",
      OURS.map((word) => (/id=esp/.test(word) ? word.replace("readonly=on,", "") : word)),
      ["disk fail"],
    ],
    [
      "read-only on the firmware",
      OURS.map((word) => (/unit=0/.test(word) ? word.replace("readonly=on,", "") : word)),
      ["disk fail"],
    ],
    [
      "raw state",
      OURS.map((word) => (/id=state/.test(word) ? word.replace("format=raw", "format=qcow2") : word)),
      ["snapshot warn"],
    ],
  ])("without %s says so", (_, words, found) => {
    expect(short(exposureOf(lineOf(words)))).toEqual(found);
  });

  it.each([
    ["a variable", 'qemu-system-x86_64 -m "$MEM"'],
    ["a substitution", "qemu-system-x86_64 `cat opts`"],
    ["a pipe", "qemu-system-x86_64 -m 1 | cat"],
    ["bare JSON", 'qemu-system-x86_64 -device {"driver":"vfio-pci"}'],
    ["an open quote", "qemu-system-x86_64 'x"],
    ["a backslash at the end", "qemu-system-x86_64 x\\"],
    ["another program", "sudo qemu-system-x86_64 -m 1"],
    ["another processor", "qemu-system-aarch64 -m 1"],
    ["nothing", ""],
    ["one key twice", "qemu-system-x86_64 -device vfio-pci,host=03:00.0,host=00:14.0"],
    ["one key twice in JSON", `qemu-system-x86_64 -device '{"driver":"vfio-pci","driver":"virtio-rng-pci"}'`],
  ])("that holds %s is refused", (_, text) => {
    expect(thrown(() => exposureOf(text))).toMatchObject({ code: "ERR_HOST_MALFORMED", exitCode: 3 });
  });

  it("I10: what was quoted comes out as the words it was made of", () => {
    const word = fc.string({ minLength: 1 }).filter((text) => !text.includes("\0"));
    fc.assert(
      fc.property(fc.array(word), (words) => {
        expect(qemuWords(lineOf(words))).toEqual(words);
      }),
    );
  });
});

const added = (element: string) => GOOD.replace("  </devices>", `${element}\n  </devices>`);

describe("a libvirt domain", () => {
  it("of this project's machine exposes nothing beyond its policy", () => {
    expect(exposureOf(GOOD)).toEqual([]);
  });

  it.each([
    [
      "a whole USB controller of the host",
      "<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x00' slot='0x14' function='0x0'/></source></hostdev>",
      ["controller fail"],
    ],
    [
      "an unlisted PCI device",
      "<hostdev mode='subsystem' type='pci'><source><address bus='0x03' slot='0' function='0'/></source></hostdev>",
      ["device fail"],
    ],
    [
      "an unlisted USB device",
      "<hostdev mode='subsystem' type='usb'><source><vendor id='0x046d'/><product id='0xc31c'/></source></hostdev>",
      ["device fail"],
    ],
    [
      "a hub",
      "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>",
      ["controller fail"],
    ],
    ["a disk controller of the host", "<hostdev mode='subsystem' type='scsi'/>", ["unknown fail"]],
    [
      "a network card",
      "<interface type='network'><source network='default'/><model type='virtio'/></interface>",
      ["network fail"],
    ],
    [
      "a network card of the host",
      "<interface type='hostdev'><source><address bus='0x03' slot='0' function='0'/></source></interface>",
      ["network fail", "device fail"],
    ],
    [
      "a shared folder",
      "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv'/><target dir='srv'/></filesystem>",
      ["shared-folder fail"],
    ],
    [
      "the guest agent",
      "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
      ["guest-agent fail"],
    ],
    [
      "SPICE's channel",
      "<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>",
      ["display warn", "display warn"],
    ],
    ["SPICE", "<graphics type='spice' autoport='yes'/>", ["display fail"]],
    [
      "VNC on a Unix socket",
      "<graphics type='vnc'><listen type='socket' socket='/run/vnc'/></graphics>",
      ["display warn"],
    ],
    ["USB from afar", "<redirdev bus='usb' type='spicevmc'/>", ["redirection fail"]],
    ["vsock", "<vsock model='virtio'><cid auto='yes'/></vsock>", ["vsock fail"]],
    ["shared memory", "<shmem name='x'><model type='ivshmem-plain'/></shmem>", ["shared-memory fail"]],
    ["a debug port", "<serial type='file'><source path='/x'/><target type='isa-debug'/></serial>", ["debug-port warn"]],
    [
      "a console on TCP",
      "<serial type='tcp'><source mode='bind' host='127.0.0.1' service='4555'/></serial>",
      ["network-socket fail"],
    ],
    ["a USB controller that the policy lacks", "<controller type='usb' model='qemu-xhci'/>", ["emulated fail"]],
    ["a tablet", "<input type='tablet' bus='usb'/>", ["emulated fail"]],
    ["a balloon", "<memballoon model='virtio'/>", ["emulated fail"]],
    ["a disk more", "<disk type='file'><target bus='sata'/><serial>loot</serial></disk>", ["disk fail"]],
    ["a device that nobody knows", "<teleporter/>", ["unknown fail"]],
  ])("with %s says so", (_, element, found) => {
    expect(short(exposureOf(added(element)))).toEqual(found);
  });

  it.each([
    ["a TPM", "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>", "", ["tpm fail"]],
    ["a TPM 2.0", "version='2.0'", "version='1.2'", ["tpm fail"]],
    ["UEFI firmware", "type='pflash'", "type='rom'", ["firmware fail"]],
    ["read-only firmware", "readonly='yes' ", "", ["disk fail"]],
    ["the image's own kernel", "</os>", "<kernel>/vmlinuz</kernel></os>", ["firmware fail"]],
    ["a read-only root", "<serial>root</serial><readonly/>", "<serial>root</serial>", ["disk fail"]],
    [
      "raw disks",
      "type='raw'/><source file='/m/state.img'",
      "type='qcow2'/><source file='/m/state.img'",
      ["snapshot warn"],
    ],
    ["disks that keep anything", "<serial>state</serial>", "<serial>state</serial><transient/>", ["snapshot fail"]],
    ["memory of its own", "<nosharepages/>", "", ["memory-merge warn"]],
    ["ordinary pages", "<nosharepages/>", "<nosharepages/><hugepages/>", ["hugepages warn"]],
    ["S3 disabled", "<suspend-to-mem enabled='no'/>", "", ["suspend fail"]],
    ["S4 disabled", `<suspend-to-disk enabled="no"/>`, "<suspend-to-disk enabled='yes'/>", ["suspend fail"]],
    [
      "arguments of its own",
      "</domain>",
      "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-s'/><qemu:arg value='-monitor'/><qemu:arg value='tcp::4444'/></qemu:commandline></domain>",
      ["debugger fail", "network-socket fail"],
    ],
    ["strings for the firmware", "</domain>", "<sysinfo type='smbios'/></domain>", ["injected warn"]],
    ["an element that nobody knows", "</domain>", "<wormhole/></domain>", ["unknown fail"]],
  ])("changed in %s says so", (_, from, to, found) => {
    expect(GOOD).toContain(from);
    expect(short(exposureOf(GOOD.replace(from, to)))).toEqual(found);
  });

  it("a listed device of the host is no finding", () => {
    const pci =
      "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' bus='0x03' slot='0x00' function='0x0'/></source></hostdev>";
    const usb =
      "<hostdev mode='subsystem' type='usb'><source><vendor id='0x08e6'/><product id='0x4433'/></source></hostdev>";
    expect(exposureOf(added(pci + usb), [...vmPciDevices, HSM, READER])).toEqual([]);
    expect(short(exposureOf(added(usb + usb), [...vmPciDevices, READER]))).toEqual(["device fail"]);
  });

  it.each([
    ["a document type", `<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><domain>&e;</domain>`],
    ["an entity of its own", "<domain><name>&lol;</name></domain>"],
    ["CDATA", "<domain><![CDATA[x]]></domain>"],
    ["a processing instruction", "<domain><?x y?></domain>"],
    ["an attribute twice", "<domain a='1' a='2'/>"],
    ["an element that does not end", "<domain><a></domain>"],
    ["more than a document", "<domain/><domain/>"],
    ["a value without quotes", "<domain a=1/>"],
    ["a bare ampersand", "<domain>a & b</domain>"],
    ["too many levels", `${"<a>".repeat(40)}${"</a>".repeat(40)}`],
    ["another document", "<network/>"],
    ["more than a mebibyte", `<domain>${" ".repeat(1 << 20)}</domain>`],
  ])("that holds %s is refused", (_, text) => {
    expect(thrown(() => exposureOf(text))).toMatchObject({ code: "ERR_HOST_MALFORMED", exitCode: 3 });
  });
});

describe("the devices of this host", () => {
  const root = mkdtempSync(join(tmpdir(), "sysfs-"));
  const put = (path: string, files: Readonly<Record<string, string>>) => {
    mkdirSync(join(root, path), { recursive: true });
    for (const [name, text] of Object.entries(files)) writeFileSync(join(root, path, name), `${text}\n`);
  };

  it("are read from sysfs, and what has devices below it is told apart", () => {
    put("bus/pci/devices/0000:03:00.0", { vendor: "0x10ee", device: "0x7021", class: "0x100000" });
    put("bus/pci/devices/0000:00:14.0", { vendor: "0x8086", device: "0xa36d", class: "0x0c0330" });
    put("bus/pci/devices/0000:00:1c.0", { vendor: "0x8086", device: "0xa338", class: "0x060400" });
    put("bus/usb/devices/1-4", { busnum: "1", devnum: "4", idVendor: "08e6", idProduct: "4433", bDeviceClass: "00" });
    put("bus/usb/devices/usb1", { busnum: "1", devnum: "1", idVendor: "1d6b", idProduct: "0002", bDeviceClass: "09" });
    const devices = sysfsDevices(root);
    expect(devices.pci("0000:03:00.0")).toEqual({ id: HSM, isBus: false });
    expect(devices.pci("0000:00:14.0")).toEqual({ id: "8086:a36d", isBus: true });
    expect(devices.pci("0000:00:1c.0")).toEqual({ id: "8086:a338", isBus: true });
    expect(devices.pci("0000:04:00.0")).toBeNull();
    expect(devices.usb(1, 4)).toEqual({ id: READER, isBus: false });
    expect(devices.usb(1, 1)).toEqual({ id: "usb:1d6b:0002", isBus: true });
    expect(devices.usb(2, 1)).toBeNull();
    rmSync(root, { recursive: true });
  });
});
