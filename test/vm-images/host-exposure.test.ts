import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { sysfsDevices } from "../../vm-images/host/index.ts";
import { qemuWords } from "../../vm-images/host/words.ts";
import { vmPciDevices } from "../../vm-images/qemu-args.ts";
import { exposureOf, HSM, lineOf, OURS, short, thrown } from "../support/host-configurations.ts";
import { READER, READER_DEVICES } from "../support/usb-token.ts";

/** The USB controllers that a board has by itself. */
const BOARD_USB = ["emulated fail", "emulated fail", "emulated fail", "emulated fail"];

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
    ["the old way to pass one", ["-usbdevice", "host:046d:c31c"], [...BOARD_USB, "controller fail"]],
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
      ["shared-memory fail", "hugepages warn"],
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
    ["a machine whose last word is that it may sleep", ["-global", "ICH9-LPC.disable_s3=0"], ["suspend fail"]],
    ["a machine whose last word is to merge", ["-machine", "mem-merge=on"], ["memory-merge warn"]],
    ["another board at last, whose sleep nobody disabled", ["-M", "pc"], ["suspend fail", "suspend fail"]],
    ["USB controllers of the board", ["-machine", "usb=on"], BOARD_USB],
    ["VNC by another option", ["-display", "vnc=:0"], ["display fail"]],
    ["VNC by another option, on a Unix socket", ["-display", "vnc=unix:/run/vnc"], ["display warn"]],
    ["a window", ["-display", "gtk"], ["display warn"]],
    ["a monitor and console on TCP", ["-serial", "mon:telnet::4321,server"], ["network-socket fail"]],
    ["TCP in what begins as a Unix socket", ["-monitor", "unix:host=0.0.0.0,port=1"], ["network-socket fail"]],
    ["another backend in what begins as a Unix socket", ["-serial", "unix:/x,backend=udp"], ["unknown fail"]],
    ["a backend without its word", ["-chardev", "backend=socket,id=c,host=::,port=1"], ["network-socket fail"]],
    ["a serial line of the host", ["-serial", "/dev/ttyUSB0"], ["device fail"]],
    ["a parallel port of the host", ["-chardev", "parallel,id=c,path=/dev/parport0"], ["device fail"]],
    ["a device of the host as a file", ["-serial", "file:/x/..//dev/ttyS0"], ["device fail"]],
    ["a console that is written to a file", ["-serial", "mon:file:/tmp/a=b,c"], []],
    ["a named console", ["-device", "virtconsole,name=org.qemu.guest_agent.0"], ["guest-agent fail"]],
    ["guest memory of memfd", ["-object", "memory-backend-memfd,id=m,size=1G"], ["shared-memory fail"]],
    ["a file of whatever format", ["-drive", "if=none,id=n,file=/x"], ["snapshot warn"]],
    ["a disk by JSON", ["-drive", 'if=none,id=n,format=raw,file=json:{"driver":"nbd"}'], ["unknown fail"]],
    ["a disk on a Unix socket", ["-drive", "if=none,id=n,format=raw,file=nbd+unix:///?socket=/s"], ["unknown fail"]],
    ["a disk of a PCI device", ["-drive", "if=none,id=n,format=raw,file=nvme://0000:01:00.0/1"], ["unknown fail"]],
    ["a mirrored disk", ["-blockdev", "driver=quorum,node-name=n,children.0=a"], ["unknown fail", "unknown fail"]],
    ["a socket that somebody else opened", ["-chardev", "socket,id=c,fd=20,server=on"], ["unknown fail"]],
    ["a disk of another machine", ["-drive", "if=none,id=n,format=raw,file=nbd:localhost:10809"], ["unknown fail"]],
  ])("with %s says so", (_, more, found) => {
    expect(short(exposureOf(lineOf([...OURS, ...more])))).toEqual(found);
  });

  it("as libvirt writes it is read, JSON and all, and only its sockets by number are not known", () => {
    const node = (name: string, file: string, readOnly: boolean) => [
      ...[
        "-blockdev",
        JSON.stringify({
          driver: "file",
          filename: file,
          "node-name": `${name}-storage`,
          "auto-read-only": true,
          discard: "unmap",
        }),
      ],
      ...[
        "-blockdev",
        JSON.stringify({ "node-name": name, "read-only": readOnly, driver: "raw", file: `${name}-storage` }),
      ],
    ];
    const device = (value: object) => ["-device", JSON.stringify(value)];
    const disk = { driver: "virtio-blk-pci", bus: "pci.4", addr: "0x0", "write-cache": "on" };
    const line = [
      ...["-name", "guest=signer,debug-threads=on", "-S", "-no-user-config", "-nodefaults", "-no-shutdown", "-no-hpet"],
      ...["-object", JSON.stringify({ "qom-type": "secret", id: "masterKey0", format: "raw", file: "/var/key.aes" })],
      ...node("flash0", "/f/CODE.fd", true),
      ...["-machine", "pc-q35-7.2,usb=off,dump-guest-core=off,mem-merge=off,memory-backend=pc.ram,pflash0=flash0"],
      ...["-accel", "kvm", "-cpu", "host,migratable=on", "-m", "size=524288k", "-overcommit", "mem-lock=off"],
      ...["-object", JSON.stringify({ "qom-type": "memory-backend-ram", id: "pc.ram", size: 536870912 })],
      ...["-smp", "2,sockets=2,cores=1,threads=1", "-uuid", "0", "-display", "none", "-rtc", "base=utc,driftfix=slew"],
      ...["-chardev", "socket,id=charmonitor,fd=20,server=on,wait=off"],
      ...["-mon", "chardev=charmonitor,id=monitor,mode=control", "-boot", "strict=on", "-msg", "timestamp=on"],
      ...[
        "-global",
        "kvm-pit.lost_tick_policy=delay",
        "-global",
        "ICH9-LPC.disable_s3=1",
        "-global",
        "ICH9-LPC.disable_s4=1",
      ],
      ...device({ driver: "virtio-serial-pci", id: "virtio-serial0", bus: "pci.3", addr: "0x0" }),
      ...node("root", "/i/root.img", true),
      ...device({ ...disk, drive: "root", id: "virtio-disk1", serial: "root" }),
      ...[
        "-chardev",
        "pty,id=charserial0",
        ...device({ driver: "isa-serial", chardev: "charserial0", id: "serial0", index: 0 }),
      ],
      ...["-chardev", "socket,id=chrtpm,path=/run/tpm.sock", "-tpmdev", "emulator,id=tpm-tpm0,chardev=chrtpm"],
      ...device({ driver: "tpm-crb", tpmdev: "tpm-tpm0", id: "tpm0" }),
      ...["-audiodev", JSON.stringify({ id: "audio1", driver: "none" })],
      ...["-object", JSON.stringify({ "qom-type": "rng-random", id: "objrng0", filename: "/dev/urandom" })],
      ...device({ driver: "virtio-rng-pci", rng: "objrng0", id: "rng0", bus: "pci.5", addr: "0x0" }),
      ...["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    ];
    expect(exposureOf(lineOf(line))).toMatchObject([{ id: "unknown", item: expect.stringContaining("fd=20") }]);
  });

  it("a listed device of the host is no finding, however its place is written", () => {
    for (const place of [
      "vfio-pci,host=03:00.0",
      "vfio-pci,host=0000:03:00.0",
      '{"driver":"vfio-pci","host":"0000:03:00.0"}',
      "vfio-pci,sysfsdev=/sys/bus/pci/devices/0000:03:00.0",
    ])
      expect(exposureOf(lineOf([...OURS, "-device", place]), [...vmPciDevices, HSM])).toEqual([]);
    // 0x627 in decimal, and octal to QEMU.
    const keyboard = ["-device", "usb-host,vendorid=01575,productid=1"];
    expect(short(exposureOf(lineOf([...OURS, ...keyboard]), [...vmPciDevices, "usb:0627:0001"]))).toEqual([
      "device fail",
    ]);
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
      ["network fail", "emulated fail", "display fail"],
    ],
    ["-display none", OURS.filter((word, at) => word !== "-display" && OURS[at - 1] !== "-display"), ["display fail"]],
    ["-no-user-config", OURS.filter((word) => word !== "-no-user-config"), ["unknown fail"]],
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
    ["braces that a shell makes two words of", "qemu-system-x86_64 -device vfio-pci,host=00:{03,14}.0"],
    ["bare JSON", 'qemu-system-x86_64 -device {"driver":"vfio-pci"}'],
    ["an open quote", "qemu-system-x86_64 'x"],
    ["a backslash at the end", "qemu-system-x86_64 x\\"],
    ["another program", "sudo qemu-system-x86_64 -m 1"],
    ["another processor", "qemu-system-aarch64 -m 1"],
    ["nothing", ""],
    ["one key twice", "qemu-system-x86_64 -device vfio-pci,host=03:00.0,host=00:14.0"],
    ["one key twice, once as a switch", "qemu-system-x86_64 -drive if=none,id=x,readonly=on,noreadonly"],
    ["a driver twice", "qemu-system-x86_64 -device virtconsole,driver=vfio-pci,host=00:14.0"],
    ["a backend twice", "qemu-system-x86_64 -chardev file,backend=socket,host=::,port=1"],
    ["a key that is none", "qemu-system-x86_64 -drive if=none,a,,b=c"],
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
