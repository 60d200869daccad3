import { ImageError } from "../errors.ts";
import {
  deviceMade,
  diskMade,
  type HostItem,
  type HostMachine,
  type PlainKind,
  portNamed,
  roleOf,
} from "./configuration.ts";
import { readQemuDevices } from "./qemu.ts";
import { pciAddress, usbId, usbPlace } from "./qemu-devices.ts";
import { parseXml, type XmlElement } from "./xml.ts";

/** Parts of a domain that give the guest nothing but processors, memory, time, a name, or a limit. */
const NEUTRAL =
  "name uuid genid title description metadata memory currentMemory maxMemory vcpu vcpus cpu cputune blkiotune memtune numatune iothreads iothreadids defaultiothread resource features clock on_poweroff on_reboot on_crash on_lockfailure perf seclabel launchSecurity throttlegroups";
const neutral: ReadonlySet<string> = new Set(NEUTRAL.split(" "));
/** Of its devices: the emulator itself, what filters, and what only the host sees. */
const NEUTRAL_DEVICES: ReadonlySet<string> = new Set([
  "emulator",
  "redirfilter",
  "nvram",
  "panic",
  "audio",
  "lease",
  "pstore",
]);

/** Devices whose presence says it all. */
const PLAIN_DEVICES: ReadonlyMap<string, PlainKind> = new Map<string, PlainKind>([
  ["filesystem", "shared-folder"],
  ["vsock", "vsock"],
  ["redirdev", "redirection"],
  ["smartcard", "redirection"],
  ["shmem", "shared-memory"],
]);

/** A libvirt domain. @throws ImageError ERR_HOST_MALFORMED for XML outside of the subset, or another document */
export function readLibvirtText(text: string): HostMachine {
  const domain = parseXml(text);
  if (domain.name !== "domain")
    throw new ImageError("ERR_HOST_MALFORMED", "domain XML", { expected: "a domain", got: domain.name.slice(0, 40) });
  return { source: "libvirt", items: [...domain.children.flatMap(partOf), ...suspendOf(domain), ...mergeOf(domain)] };
}

function partOf(element: XmlElement): readonly HostItem[] {
  const what = `<${element.name}>`;
  switch (element.name) {
    case "devices":
      return element.children.flatMap(deviceOf);
    case "os":
      return firmwareOf(element);
    case "memoryBacking":
      return memoryOf(element);
    case "sysinfo":
      return [{ kind: "injected", what }];
    case "pm":
      return []; // read with what is not there
    case "qemu:commandline":
      return argumentsOf(element);
    default:
      return neutral.has(element.name) ? [] : [{ kind: "unknown", what }];
  }
}

function child(element: XmlElement | undefined, name: string): XmlElement | undefined {
  return element?.children.find((each) => each.name === name);
}

function attribute(element: XmlElement | undefined, name: string): string | undefined {
  return element?.attributes.get(name);
}

function suspendOf(domain: XmlElement): readonly HostItem[] {
  const pm = child(domain, "pm");
  return ["suspend-to-mem", "suspend-to-disk"]
    .filter((name) => attribute(child(pm, name), "enabled") !== "no")
    .map((name): HostItem => ({ kind: "suspend", what: `no <${name} enabled="no"/>` }));
}

function mergeOf(domain: XmlElement): readonly HostItem[] {
  const kept = child(child(domain, "memoryBacking"), "nosharepages") !== undefined;
  return kept ? [] : [{ kind: "memory-merge", what: "<memoryBacking> without <nosharepages/>" }];
}

function memoryOf(element: XmlElement): readonly HostItem[] {
  const shared = attribute(child(element, "access"), "mode") === "shared";
  return [
    ...(child(element, "hugepages") === undefined ? [] : [{ kind: "hugepages", what: "<hugepages>" } as const]),
    ...(shared ? [{ kind: "shared-memory", what: '<access mode="shared"/>' } as const] : []),
  ];
}

function firmwareOf(element: XmlElement): readonly HostItem[] {
  const loader = child(element, "loader");
  const flash = attribute(loader, "type") === "pflash";
  const chosen = attribute(element, "firmware") === "efi";
  const direct = element.children.filter(({ name }) =>
    ["kernel", "initrd", "cmdline", "dtb", "acpi", "shim"].includes(name),
  );
  return [
    ...(flash || chosen ? [{ kind: "uefi", what: "<os>" } as const] : []),
    // libvirt itself maps the firmware that it chooses read-only.
    ...(flash
      ? [
          {
            kind: "disk",
            what: "<loader>",
            role: "firmware",
            readOnly: attribute(loader, "readonly") === "yes",
          } as const,
        ]
      : []),
    ...direct.map(({ name }): HostItem => ({ kind: "firmware", what: `<${name}>` })),
  ];
}

function argumentsOf(element: XmlElement): readonly HostItem[] {
  const args = element.children.filter(({ name }) => name === "qemu:arg").map((arg) => attribute(arg, "value") ?? "");
  const environment = element.children.filter(({ name }) => name !== "qemu:arg");
  return [
    ...readQemuDevices(args),
    ...environment.map(({ name }): HostItem => ({ kind: "unknown", what: `<${name}>` })),
  ];
}

function deviceOf(element: XmlElement): readonly HostItem[] {
  const { name } = element;
  const what = describe(element);
  const plain = PLAIN_DEVICES.get(name);
  if (plain !== undefined) return [{ kind: plain, what }];
  if (NEUTRAL_DEVICES.has(name)) return [];
  const read = DEVICES.get(name);
  const rom = attribute(child(element, "rom"), "file") === undefined ? [] : [{ kind: "injected", what } as const];
  return [...(read === undefined ? [{ kind: "unknown", what } as const] : read(element, what)), ...rom];
}

/** The element without its children, as a person finds it again. */
function describe({ name, attributes, children }: XmlElement): string {
  const told = [...attributes].map(([key, value]) => ` ${key}="${value}"`).join("");
  const inner = children.find((each) => ["target", "source", "model"].includes(each.name));
  const more = [...(inner?.attributes ?? [])].map(([key, value]) => ` ${key}="${value}"`).join("");
  return `<${name}${told}>${inner === undefined ? "" : ` <${inner.name}${more}>`}`.slice(0, 160);
}

type ReadDevice = (element: XmlElement, what: string) => readonly HostItem[];

const DEVICES: ReadonlyMap<string, ReadDevice> = new Map<string, ReadDevice>([
  ["disk", readDisk],
  ["controller", readController],
  ["interface", readInterface],
  ["hostdev", readHostDevice],
  ["channel", readChannel],
  ["graphics", readGraphics],
  ["tpm", readTpm],
  ["serial", readOutlet],
  ["parallel", readOutlet],
  ["console", readOutlet],
  [
    "video",
    (element, what) =>
      modelType(element) === "none" ? [] : [deviceMade(VIDEO.get(modelType(element)) ?? modelType(element), what)],
  ],
  [
    "input",
    (element, what) =>
      attribute(element, "bus") === "ps2"
        ? []
        : [
            deviceMade(
              `${attribute(element, "bus")}-${INPUT.get(attribute(element, "type") ?? "") ?? attribute(element, "type")}`,
              what,
            ),
          ],
  ],
  ["hub", (_, what) => [deviceMade("usb-hub", what)]],
  ["sound", (element, what) => [deviceMade(SOUND.get(attribute(element, "model") ?? "") ?? "sound", what)]],
  [
    "watchdog",
    (element, what) =>
      attribute(element, "model") === "itco" ? [] : [deviceMade(attribute(element, "model") ?? "", what)],
  ],
  [
    "memballoon",
    (element, what) => (attribute(element, "model") === "none" ? [] : [deviceMade("virtio-balloon", what)]),
  ],
  ["rng", (_, what) => [deviceMade("virtio-rng", what)]],
  ["iommu", (element, what) => (attribute(element, "model") === "virtio" ? [deviceMade("virtio-iommu", what)] : [])],
  ["crypto", (_, what) => [deviceMade("virtio-crypto", what)]],
]);
const VIDEO: ReadonlyMap<string, string> = new Map([
  ["vga", "VGA"],
  ["bochs", "bochs-display"],
  ["qxl", "qxl-vga"],
  ["virtio", "virtio-vga"],
]);
const INPUT: ReadonlyMap<string, string> = new Map([["keyboard", "keyboard"]]);
const SOUND: ReadonlyMap<string, string> = new Map([
  ["ich6", "intel-hda"],
  ["ich9", "ich9-intel-hda"],
]);

function modelType(element: XmlElement): string {
  return attribute(child(element, "model"), "type") ?? "";
}

function readDisk(element: XmlElement, what: string): readonly HostItem[] {
  const format = attribute(child(element, "driver"), "type") ?? "raw";
  const serial = child(element, "serial")?.text.trim();
  const readOnly = child(element, "readonly") !== undefined || attribute(element, "device") === "cdrom";
  const virtio = attribute(child(element, "target"), "bus") === "virtio";
  const local = ["file", "block"].includes(attribute(element, "type") ?? "file");
  return [
    { kind: "disk", what, role: roleOf(serial, attribute(child(element, "boot"), "order")), readOnly },
    ...(virtio ? [diskMade(what)] : []),
    ...(local ? [] : [{ kind: "unknown", what } as const]),
    ...(child(element, "transient") === undefined ? [] : [{ kind: "snapshot", what, certain: true } as const]),
    ...(format === "raw" ? [] : [{ kind: "snapshot", what, certain: false } as const]),
  ];
}

function readController(element: XmlElement, what: string): readonly HostItem[] {
  const model = attribute(element, "model") ?? "";
  switch (attribute(element, "type")) {
    case "pci":
      return model === "pcie-root" || model === "pci-root"
        ? []
        : [deviceMade(model === "pcie-to-pci-bridge" ? "pcie-pci-bridge" : model, what)];
    case "usb":
      return model === "none" ? [] : [deviceMade(USB.get(model) ?? model, what)];
    case "virtio-serial":
      return [deviceMade("virtio-serial", what)];
    case "scsi":
      return [deviceMade(model === "" || model === "virtio-scsi" ? "virtio-scsi" : model, what)];
    case "sata":
    case "ide":
    case "fdc":
      return []; // part of the board
    default:
      return [{ kind: "unknown", what }];
  }
}
const USB: ReadonlyMap<string, string> = new Map([
  ["", "piix3-usb-uhci"],
  ["nec-xhci", "nec-usb-xhci"],
  ["ich9-ehci1", "ich9-usb-ehci1"],
  ["ich9-uhci1", "ich9-usb-uhci1"],
  ["ich9-uhci2", "ich9-usb-uhci2"],
  ["ich9-uhci3", "ich9-usb-uhci3"],
]);

function readInterface(element: XmlElement, what: string): readonly HostItem[] {
  if (attribute(element, "type") === "hostdev")
    return [{ kind: "network", what, ids: [] }, ...passedPci(element, what)];
  const made = deviceMade(modelType(element) === "virtio" ? "virtio-net" : modelType(element), what);
  return [made.kind === "network" ? made : { kind: "network", what, ids: [] }];
}

function readHostDevice(element: XmlElement, what: string): readonly HostItem[] {
  if (attribute(element, "mode") !== "subsystem") return [{ kind: "unknown", what }];
  switch (attribute(element, "type")) {
    case "pci":
      return passedPci(element, what);
    case "usb":
      return [passedUsb(element, what)];
    default:
      return [{ kind: "unknown", what }];
  }
}

function passedPci(element: XmlElement, what: string): readonly HostItem[] {
  const address = child(child(element, "source"), "address");
  const [domain, bus, slot, part] = ["domain", "bus", "slot", "function"].map((name) => {
    const text = attribute(address, name) ?? "0";
    return /^(?:0x[0-9a-f]{1,4}|\d{1,5})$/i.test(text) ? Number(text).toString(16) : "";
  });
  const place = pciAddress(`${domain?.padStart(4, "0")}:${bus?.padStart(2, "0")}:${slot?.padStart(2, "0")}.${part}`);
  if (place === null || address === undefined) return [{ kind: "unknown", what }];
  return [{ kind: "pci", what, address: place }];
}

function passedUsb(element: XmlElement, what: string): HostItem {
  const source = child(element, "source");
  const [vendor, product] = ["vendor", "product"].map((name) => usbId(attribute(child(source, name), "id")));
  const address = child(source, "address");
  const place = usbPlace(attribute(address, "bus"), attribute(address, "device"));
  return { kind: "usb", what, id: vendor == null || product == null ? null : `${vendor}:${product}`, place };
}

function readChannel(element: XmlElement, what: string): readonly HostItem[] {
  const name = attribute(child(element, "target"), "name") ?? "";
  return [...readOutlet(element, what), portNamed(name, what)];
}

const NETWORK_OUTLETS: ReadonlySet<string> = new Set(["tcp", "udp"]);
function readOutlet(element: XmlElement, what: string): readonly HostItem[] {
  const type = attribute(element, "type") ?? "";
  const debug =
    attribute(child(element, "target"), "type") === "isa-debug" ? [{ kind: "debug-port", what } as const] : [];
  if (NETWORK_OUTLETS.has(type)) return [{ kind: "network-socket", what }, ...debug];
  if (/^spice/.test(type)) return [{ kind: "display", what, onNetwork: false }, ...debug];
  return debug;
}

function readGraphics(element: XmlElement, what: string): readonly HostItem[] {
  const listens = element.children.filter(({ name }) => name === "listen").map((each) => attribute(each, "type") ?? "");
  const local =
    attribute(element, "socket") !== undefined || listens.some((type) => type === "socket" || type === "none");
  const type = attribute(element, "type") ?? "";
  return [{ kind: "display", what, onNetwork: type !== "sdl" && type !== "egl-headless" && type !== "dbus" && !local }];
}

function readTpm(element: XmlElement, what: string): readonly HostItem[] {
  const version = attribute(child(element, "backend"), "version") === "1.2" ? "1.2" : "2.0";
  return [{ kind: "tpm", what, version }];
}
