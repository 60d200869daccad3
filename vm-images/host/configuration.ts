import { posix } from "node:path";

/** Kinds that are wrong wherever they stand; what is judged by more than its kind has fields of its own, in {@link HostItem}. */
export type PlainKind =
  | "shared-folder"
  | "guest-agent"
  | "vsock"
  | "redirection"
  | "shared-memory"
  | "debugger"
  | "debug-port"
  | "network-socket"
  | "firmware"
  | "suspend"
  | "injected"
  | "memory-merge"
  | "hugepages"
  | "device"
  | "unknown";

/** What a serial number of a disk means to the guest; `boot` and `firmware` need none. */
export type DiskRole = "boot" | "firmware" | "root" | "cabinet" | "state" | "store" | "foreign";

/** One thing that the host gives the machine. `what` is how the text says it. */
export type HostItem =
  | { readonly kind: PlainKind; readonly what: string; readonly got?: string }
  /** Of the host, by its PCI address `dddd:bb:dd.f`. */
  | { readonly kind: "pci"; readonly what: string; readonly address: string }
  /** Of the host. By `vvvv:dddd`, or by bus and device number; neither: whatever matches. */
  | { readonly kind: "usb"; readonly what: string; readonly id: string | null; readonly place: UsbPlace | null }
  /** Made by QEMU. `ids`: what the guest may see it as, by the bus that it sits on. */
  | { readonly kind: "emulated"; readonly what: string; readonly ids: readonly string[] }
  | { readonly kind: "network"; readonly what: string; readonly ids: readonly string[] }
  | { readonly kind: "disk"; readonly what: string; readonly role: DiskRole; readonly readOnly: boolean }
  | { readonly kind: "snapshot"; readonly what: string; readonly certain: boolean }
  | { readonly kind: "display"; readonly what: string; readonly onNetwork: boolean }
  | { readonly kind: "port"; readonly what: string; readonly name: string }
  /** Expected in every machine. */
  | { readonly kind: "tpm"; readonly what: string; readonly version: "2.0" | "1.2" }
  | { readonly kind: "uefi"; readonly what: string };

/** Chipsets by which the machine's own parts differ. */
export type Board = "q35" | "pc";

export interface UsbPlace {
  readonly bus: number;
  readonly device: number;
}

/** How a host starts a machine, as one text says it. */
export interface HostMachine {
  readonly source: "libvirt" | "qemu";
  readonly items: readonly HostItem[];
}

/** What stands in the guest's lists for what QEMU makes: by driver, with and without the bus in its name. */
const EMULATED: Readonly<Record<string, readonly string[]>> = {
  "virtio-serial": ["1af4:1043", "1af4:1003"],
  "virtio-rng": ["1af4:1044", "1af4:1005"],
  "virtio-balloon": ["1af4:1045", "1af4:1002"],
  "virtio-scsi": ["1af4:1048", "1af4:1004"],
  "virtio-gpu": ["1af4:1050"],
  "virtio-keyboard": ["1af4:1052"],
  "virtio-mouse": ["1af4:1052"],
  "virtio-tablet": ["1af4:1052"],
  "virtio-iommu": ["1af4:1057"],
  "virtio-crypto": ["1af4:1054"],
  "virtio-mem": ["1af4:1058"],
  "pcie-root-port": ["1b36:000c"],
  "pcie-pci-bridge": ["1b36:000e"],
  "pci-bridge": ["1b36:0001"],
  "pci-serial": ["1b36:0002"],
  "qemu-xhci": ["1b36:000d"],
  "nec-usb-xhci": ["1033:0194"],
  "usb-ehci": ["8086:24cd"],
  "ich9-usb-ehci1": ["8086:293a"],
  "ich9-usb-uhci1": ["8086:2934"],
  "ich9-usb-uhci2": ["8086:2935"],
  "ich9-usb-uhci3": ["8086:2936"],
  "piix3-usb-uhci": ["8086:7020"],
  "usb-ccid": ["usb:08e6:4433"],
  "usb-kbd": ["usb:0627:0001"],
  "usb-mouse": ["usb:0627:0001"],
  "usb-tablet": ["usb:0627:0001"],
  "usb-hub": ["usb:0409:55aa"],
  "usb-storage": ["usb:46f4:0001"],
  "ich9-ahci": ["8086:2922"],
  "virtio-vga": ["1af4:1050"],
  VGA: ["1234:1111"],
  "bochs-display": ["1234:1111"],
  "qxl-vga": ["1b36:0100"],
  nvme: ["1b36:0010"],
  megasas: ["1000:0060"],
  "intel-hda": ["8086:2668"],
  "ich9-intel-hda": ["8086:293e"],
  i6300esb: ["8086:25ab"],
  "pvpanic-pci": ["1b36:0011"],
  "acpi-erst": ["1b36:0012"],
  edu: ["1234:11e8"],
};
const NETWORK: Readonly<Record<string, readonly string[]>> = {
  "virtio-net": ["1af4:1041", "1af4:1000"],
  e1000: ["8086:100e"],
  e1000e: ["8086:10d3"],
  igb: ["8086:10c9"],
  rtl8139: ["10ec:8139"],
  vmxnet3: ["15ad:07b0"],
};

/** Drivers with and without their bus: `virtio-rng-pci`, `virtio-rng`. */
function byDriver<T>(table: Readonly<Record<string, T>>, driver: string): T | null {
  const bare = driver.replace(/-pci(?:-non-transitional|-transitional)?$/, "");
  for (const name of [driver, bare]) if (Object.hasOwn(table, name)) return table[name] ?? null;
  return null;
}

/** A device that QEMU makes, by its driver; `unknown` where nobody said what it exposes. */
export function deviceMade(driver: string, what: string): HostItem {
  const network = byDriver(NETWORK, driver);
  if (network !== null) return { kind: "network", what, ids: network };
  const ids = byDriver(EMULATED, driver);
  return ids === null ? { kind: "unknown", what } : { kind: "emulated", what, ids };
}

/** The blocks of virtio: four disks and the boot disk. */
export function diskMade(what: string): HostItem {
  return { kind: "emulated", what, ids: ["1af4:1042", "1af4:1001"] };
}

const ROLES: ReadonlySet<string> = new Set<DiskRole>(["root", "cabinet", "state", "store"]);

export function roleOf(serial: string | undefined, bootIndex: string | undefined): DiskRole {
  if (serial !== undefined) return ROLES.has(serial) ? (serial as DiskRole) : "foreign"; // one of the set's
  return bootIndex === undefined ? "foreign" : "boot";
}

/** A virtio-serial port by the name that the guest sees. */
export function portNamed(name: string, what: string): HostItem {
  if (name.startsWith("org.qemu.guest_agent")) return { kind: "guest-agent", what };
  if (name.startsWith("com.redhat.spice") || name.startsWith("org.spice-space"))
    return { kind: "display", what, onNetwork: false };
  return { kind: "port", what, name };
}

/** What is in no table, by the name of the part that is not: nobody said what it exposes. */
export function unknownPart(what: string, part: string): HostItem {
  return { kind: "unknown", what, got: `something else: ${part.slice(0, 40)}` };
}

/** The USB controllers that a board itself has: one, or one with its three companions. */
export function boardUsb(board: Board, what: string): readonly HostItem[] {
  const made =
    board === "q35" ? ["ich9-usb-ehci1", "ich9-usb-uhci1", "ich9-usb-uhci2", "ich9-usb-uhci3"] : ["piix3-usb-uhci"];
  return made.map((driver) => deviceMade(driver, what));
}

/** Whether a path is one of the host's devices, and not one that every process has. Links are not followed. */
export function isHostDevice(path: string): boolean {
  const plain = posix.normalize(path);
  return plain.startsWith("/dev/") && !/^\/dev\/(?:null|stdout|stderr|fdset\/\d+|shm\/.*)$/.test(plain);
}
