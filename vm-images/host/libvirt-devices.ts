import {
  deviceMade,
  diskMade,
  type HostItem,
  isHostDevice,
  type PlainKind,
  portNamed,
  roleOf,
  unknownPart,
} from "./configuration.ts";
import { strangersIn } from "./libvirt-parts.ts";
import { pciAddress, usbId, usbPlace } from "./qemu-devices.ts";
import { readNumber } from "./words.ts";
import { attribute, child, type XmlElement } from "./xml.ts";

/** The emulator itself, what filters, and what only the host sees. */
const NEUTRAL_DEVICES: ReadonlySet<string> = new Set(["emulator", "redirfilter", "nvram", "audio", "lease"]);

/** Devices whose presence says it all. */
const PLAIN_DEVICES: ReadonlyMap<string, PlainKind> = new Map<string, PlainKind>([
  ["filesystem", "shared-folder"],
  ["vsock", "vsock"],
  ["redirdev", "redirection"],
  ["smartcard", "redirection"],
  ["shmem", "shared-memory"],
]);

/** What one child of `<devices>` gives. */
export function readDeviceElement(element: XmlElement): readonly HostItem[] {
  const { name } = element;
  const what = describe(element);
  const plain = PLAIN_DEVICES.get(name);
  if (plain !== undefined) return [{ kind: plain, what }];
  const read = DEVICES.get(name);
  if (read === undefined && !NEUTRAL_DEVICES.has(name)) return [{ kind: "unknown", what }];
  const rom = attribute(child(element, "rom"), "file") === undefined ? [] : [{ kind: "injected", what } as const];
  return [...(read?.(element, what) ?? []), ...rom, ...strangersIn(element, "devices", what)];
}

/** The element without its children, as a person finds it again. */
function describe({ name, attributes, children }: XmlElement): string {
  const told = [...attributes].map(([key, value]) => ` ${key}="${value}"`).join("");
  const [inner] = ["target", "source", "model"].flatMap((wanted) => children.filter((each) => each.name === wanted));
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
  ["input", readInput],
  [
    "hub",
    (element, what) =>
      attribute(element, "type") === "usb" ? [deviceMade("usb-hub", what)] : [unknownPart(what, "hub")],
  ],
  ["sound", (element, what) => [deviceMade(SOUND.get(attribute(element, "model") ?? "") ?? "sound", what)]],
  ["watchdog", (element, what) => madeUnless("itco", element, what)],
  [
    "memballoon",
    (element, what) => (attribute(element, "model") === "none" ? [] : [deviceMade("virtio-balloon", what)]),
  ],
  ["rng", readRandom],
  ["iommu", readIommu],
  ["crypto", (_, what) => [deviceMade("virtio-crypto", what)]],
  [
    "panic",
    (element, what) => (PANICS.has(attribute(element, "model") ?? "isa") ? [] : [deviceMade("pvpanic-pci", what)]),
  ],
  ["pstore", (_, what) => [deviceMade("acpi-erst", what)]],
]);
const PANICS: ReadonlySet<string> = new Set(["isa", "hyperv"]);
const VIDEO: ReadonlyMap<string, string> = new Map([
  ["vga", "VGA"],
  ["bochs", "bochs-display"],
  ["qxl", "qxl-vga"],
  ["virtio", "virtio-vga"],
]);
const INPUTS: ReadonlySet<string> = new Set(["keyboard", "mouse", "tablet"]);
const SOUND: ReadonlyMap<string, string> = new Map([
  ["ich6", "intel-hda"],
  ["ich9", "ich9-intel-hda"],
]);

function modelType(element: XmlElement): string {
  return attribute(child(element, "model"), "type") ?? "";
}

function madeUnless(board: string, element: XmlElement, what: string): readonly HostItem[] {
  const model = attribute(element, "model") ?? "";
  return model === board ? [] : [deviceMade(model, what)];
}

/** Those on PS/2 are the board's own; another type is a device of the host. */
function readInput(element: XmlElement, what: string): readonly HostItem[] {
  const [type = "", bus = ""] = ["type", "bus"].map((name) => attribute(element, name));
  if (!INPUTS.has(type)) return [{ kind: "device", what }];
  if (bus === "ps2") return [];
  const name = bus === "usb" && type === "keyboard" ? "kbd" : type;
  return [deviceMade(`${bus}-${name}`, what)];
}

function readRandom(element: XmlElement, what: string): readonly HostItem[] {
  const model = attribute(child(element, "backend"), "model") ?? "";
  const made = deviceMade("virtio-rng", what);
  return model === "random" || model === "builtin" ? [made] : [made, unknownPart(what, model)];
}

function readIommu(element: XmlElement, what: string): readonly HostItem[] {
  const model = attribute(element, "model") ?? "";
  return model === "intel" ? [] : [deviceMade(`${model}-iommu`, what)];
}

function readDisk(element: XmlElement, what: string): readonly HostItem[] {
  const serial = child(element, "serial")?.text.trim();
  const kind = attribute(element, "device") ?? "disk";
  const readOnly = child(element, "readonly") !== undefined || kind === "cdrom";
  const bus = attribute(child(element, "target"), "bus") ?? "";
  return [
    { kind: "disk", what, role: roleOf(serial, attribute(child(element, "boot"), "order")), readOnly },
    ...(bus === "virtio" ? [diskMade(what)] : []),
    ...(bus === "usb" ? [deviceMade("usb-storage", what)] : []),
    ...(BUSES.has(bus) ? [] : [unknownPart(what, `bus ${bus}`)]),
    ...(kind === "disk" || kind === "cdrom" ? [] : [unknownPart(what, kind)]),
    ...(isLocal(element) ? [] : [unknownPart(what, attribute(element, "type") ?? "")]),
    ...(child(element, "transient") === undefined ? [] : [{ kind: "snapshot", what, certain: true } as const]),
    ...(isRaw(element) ? [] : [{ kind: "snapshot", what, certain: false } as const]),
  ];
}
const BUSES: ReadonlySet<string> = new Set(["virtio", "usb", "scsi", "sata", "ide"]);

/** A file or a device of the host, and so is all that it stands upon. */
function isLocal(element: XmlElement): boolean {
  const below = child(element, "backingStore");
  const here = ["file", "block"].includes(attribute(element, "type") ?? "file");
  return here && (below === undefined || isLocal(below));
}

function isRaw(element: XmlElement): boolean {
  const below = child(element, "backingStore")?.children.length ?? 0;
  return (attribute(child(element, "driver"), "type") ?? "raw") === "raw" && below === 0;
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
    const number = readNumber(attribute(address, name) ?? "0");
    return number === null ? "" : number.toString(16);
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
  const target = child(element, "target");
  return [...backendItems(element, what), ...channelItems(attribute(target, "type") ?? "", target, what)];
}

function channelItems(type: string, target: XmlElement | undefined, what: string): readonly HostItem[] {
  return type === "virtio" ? [portNamed(attribute(target, "name") ?? "", what)] : [unknownPart(what, type)];
}

function readOutlet(element: XmlElement, what: string): readonly HostItem[] {
  return [...backendItems(element, what), ...targetItems(attribute(child(element, "target"), "type") ?? "", what)];
}

/** The guest's side of a console or a port. */
function targetItems(type: string, what: string): readonly HostItem[] {
  switch (type) {
    case "": // a parallel port, or what libvirt takes for the first serial one
    case "isa-serial":
    case "serial":
    case "virtio":
      return [];
    case "isa-debug":
      return [{ kind: "debug-port", what }];
    default:
      return [deviceMade(type, what)];
  }
}

/** The host's side. */
function backendItems(element: XmlElement, what: string): readonly HostItem[] {
  const type = attribute(element, "type") ?? "";
  switch (type) {
    case "null":
    case "vc":
    case "pty":
    case "stdio":
    case "unix":
      return [];
    case "file":
    case "pipe":
      return isHostDevice(attribute(child(element, "source"), "path") ?? "") ? [{ kind: "device", what }] : [];
    case "dev":
      return [{ kind: "device", what }];
    case "tcp":
    case "udp":
      return [{ kind: "network-socket", what }];
    case "spicevmc":
    case "spiceport":
    case "dbus":
    case "qemu-vdagent":
      return [{ kind: "display", what, onNetwork: false }];
    default:
      return [unknownPart(what, type)];
  }
}

/** What opens windows and serves nobody else. */
const WINDOWS: ReadonlySet<string> = new Set(["sdl", "egl-headless"]);

function readGraphics(element: XmlElement, what: string): readonly HostItem[] {
  const listens = element.children.filter(({ name }) => name === "listen").map((each) => attribute(each, "type") ?? "");
  const sockets = listens.length > 0 && listens.every((type) => type === "socket" || type === "none");
  const websocket = attribute(element, "websocket") !== undefined;
  const local =
    WINDOWS.has(attribute(element, "type") ?? "") ||
    (!websocket && (sockets || attribute(element, "socket") !== undefined));
  return [{ kind: "display", what, onNetwork: !local }];
}

function readTpm(element: XmlElement, what: string): readonly HostItem[] {
  const backend = child(element, "backend");
  const type = attribute(backend, "type") ?? "";
  const known = type === "emulator" || type === "passthrough";
  const version = attribute(backend, "version") === "1.2" ? "1.2" : "2.0";
  return [{ kind: "tpm", what, version }, ...(known ? [] : [unknownPart(what, type)])];
}
