import { describe, expect, it } from "vitest";
import { vmPciDevices } from "../../vm-images/qemu-args.ts";
import { exposureOf, GOOD, HSM, short, thrown } from "../support/host-configurations.ts";
import { READER } from "../support/usb-token.ts";

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
    ["a USB stick", "<disk type='file'><target bus='usb'/><serial>state</serial></disk>", ["emulated fail"]],
    ["a disk on a bus that nobody knows", "<disk><target bus='sd'/><serial>state</serial></disk>", ["unknown fail"]],
    [
      "a disk that others write",
      "<disk><target bus='sata'/><serial>state</serial><shareable/></disk>",
      ["unknown fail"],
    ],
    [
      "a disk upon another machine's",
      "<disk><target bus='sata'/><serial>state</serial><backingStore type='network'><format type='raw'/></backingStore></disk>",
      ["unknown fail", "snapshot warn"],
    ],
    ["a serial line of the host", "<serial type='dev'><source path='/dev/ttyUSB0'/></serial>", ["device fail"]],
    ["a device as a file", "<parallel type='file'><source path='/dev/lp0'/></parallel>", ["device fail"]],
    ["a console that nobody knows", "<console type='nmdm'/>", ["unknown fail"]],
    ["a serial card", "<serial type='pty'><target type='pci-serial'/></serial>", ["emulated fail"]],
    ["a way into the network", "<channel type='pty'><target type='guestfwd'/></channel>", ["unknown fail"]],
    [
      "a keyboard of the host",
      "<input type='evdev'><source dev='/dev/input/event1'/></input>",
      ["device fail", "unknown fail"],
    ],
    ["random numbers from afar", "<rng model='virtio'><backend model='egd'/></rng>", ["emulated fail", "unknown fail"]],
    ["a panic device on PCI", "<panic model='pvpanic'/>", ["emulated fail"]],
    ["a store for crashes", "<pstore backend='acpi-erst'/>", ["emulated fail"]],
    ["another TPM", "<tpm model='tpm-crb'><backend type='external'/></tpm>", ["unknown fail"]],
    [
      "VNC on a Unix socket and the network",
      "<graphics type='vnc' websocket='5700'><listen type='socket'/></graphics>",
      ["display fail"],
    ],
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
    [
      "a node's own memory",
      "<cpu mode='host-passthrough'/>",
      "<cpu><numa><cell id='0' cpus='0' memory='1' memAccess='shared'/></numa></cpu>",
      ["shared-memory fail"],
    ],
    ["memory of memfd", "<nosharepages/>", "<nosharepages/><source type='memfd'/>", ["shared-memory fail"]],
    [
      "memory of memfd that is private",
      "<nosharepages/>",
      "<nosharepages/><source type='memfd'/><access mode='private'/>",
      [],
    ],
    ["memory in a file", "<nosharepages/>", "<nosharepages/><source type='file'/>", ["hugepages warn"]],
    [
      "a part of the processor that nobody knows",
      "<cpu mode='host-passthrough'/>",
      "<cpu><wormhole/></cpu>",
      ["unknown fail"],
    ],
    ["S3 disabled", "<suspend-to-mem enabled='no'/>", "", ["suspend fail"]],
    ["S4 disabled", `<suspend-to-disk enabled="no"/>`, "<suspend-to-disk enabled='yes'/>", ["suspend fail"]],
    [
      "arguments of its own",
      "</domain>",
      "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-s'/><qemu:arg value='-monitor'/><qemu:arg value='tcp::4444'/></qemu:commandline></domain>",
      ["debugger fail", "network-socket fail"],
    ],
    [
      "the last word on sleep and merging",
      "</domain>",
      "<qemu:commandline><qemu:arg value='-global'/><qemu:arg value='ICH9-LPC.disable_s3=0'/><qemu:arg value='-machine'/><qemu:arg value='mem-merge=on'/></qemu:commandline></domain>",
      ["suspend fail", "memory-merge warn"],
    ],
    ["variables of its own", "<nvram>/m/vars.fd</nvram>", "<nvram type='network'/>", ["unknown fail"]],
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
