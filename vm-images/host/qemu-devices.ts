import {
  deviceMade,
  diskMade,
  type HostItem,
  type PlainKind,
  portNamed,
  roleOf,
  type UsbPlace,
} from "./configuration.ts";
import { isReadOnly } from "./qemu-disks.ts";
import { keyPattern, type QemuMachine, type ReadKeys, type ReadOption, strangers } from "./qemu-keys.ts";
import { type OptionKeys, readNumber, readOption } from "./words.ts";

/** Drivers that say it all. */
const DRIVERS: ReadonlyMap<string, PlainKind> = new Map<string, PlainKind>([
  ["virtio-9p", "shared-folder"],
  ["vhost-user-fs", "shared-folder"],
  ["vhost-vsock", "vsock"],
  ["vhost-user-vsock", "vsock"],
  ["usb-redir", "redirection"],
  ["ccid-card-passthru", "redirection"],
  ["ccid-card-emulated", "redirection"],
  ["u2f-passthru", "redirection"],
  ["ivshmem-plain", "shared-memory"],
  ["ivshmem-doorbell", "shared-memory"],
  ["isa-debugcon", "debug-port"],
  ["isa-debug-exit", "debugger"],
]);

/** Properties of any device that decide where it sits and how it speaks, not what it reaches. */
const COMMON =
  "driver id bus addr port multifunction romfile rombar romsize acpi-index disable-legacy disable-modern iommu_platform ats packed page-per-vq event_idx indirect_desc any_layout notify_on_empty ioeventfd vectors";
const DISK =
  "drive serial bootindex device_id product ver wwn physical_block_size logical_block_size min_io_size opt_io_size discard_granularity discard write-zeroes write-cache werror rerror num-queues queue-size iothread unit lun channel scsi-id removable rotation_rate";
const MADE =
  "max_ports rng max-bytes period chassis chassis_nr slot aer x-speed x-width io-reserve mem-reserve pref64-reserve bus-reserve hotplug shpc msi msix p2 p3 ports masterbus firstport mac netdev mq host_mtu vgamem_mb vram_size_mb vram64_size_mb ram_size vram_size max_outputs edid xres yres deflate-on-oom free-page-reporting iothread num_queues";
const SERIAL = "chardev name nr index iobase irq";

interface Driver {
  readonly known: RegExp;
  readonly read: ReadKeys;
}
const driver = (known: string, read: ReadKeys): Driver => ({ known: keyPattern(`${COMMON} ${known}`), read });

const disk = driver(DISK, diskOf);
const tpm = driver("tpmdev ppi", (keys, what, { tpms }) =>
  tpms.has(keys.get("tpmdev") ?? "") ? [{ kind: "tpm", what, version: "2.0" }] : [],
);

/** Drivers by which a host's device, disk or port comes in; all others are known by what they make. */
const READ: ReadonlyMap<string, Driver> = new Map<string, Driver>([
  ["vfio", driver("host sysfsdev", (keys, what) => [vfioOf(keys, what)])],
  [
    "usb-host",
    driver(
      "hostbus hostaddr hostport hostdevice vendorid productid isobufs isobsize guest-reset guest-resets-all suppress-remote-wake pipeline loglevel",
      // QEMU opens the named one of these, whatever else is said.
      (keys, what) => [
        keys.has("hostdevice") || keys.has("hostport") ? { kind: "unknown", what } : usbItem(keys, what),
      ],
    ),
  ],
  ["virtio-blk", driver(DISK, (keys, what, machine) => [diskMade(what), ...diskOf(keys, what, machine)])],
  ...["nvme", "usb-storage"].map((name): [string, Driver] => [
    name,
    driver(DISK, (keys, what, machine) => [deviceMade(name, what), ...diskOf(keys, what, machine)]),
  ]),
  ...["scsi-hd", "scsi-cd", "ide-hd", "ide-cd"].map((name): [string, Driver] => [name, disk]),
  ["virtserialport", driver(SERIAL, (keys, what) => [portNamed(keys.get("name") ?? "", what)])],
  // The guest sees a console's name as it sees a port's.
  ["virtconsole", driver(SERIAL, (keys, what) => (keys.has("name") ? [portNamed(keys.get("name") ?? "", what)] : []))],
  ["isa-serial", driver(SERIAL, () => [])],
  ["pci-serial", driver(SERIAL, (_, what) => [deviceMade("pci-serial", what)])],
  ["tpm-crb", tpm],
  ["tpm-tis", tpm],
]);
const made = keyPattern(`${COMMON} ${MADE}`);

/** What one `-device` gives. */
export const readDevice: ReadOption = (value, what, machine) => {
  const keys = readOption(value, "driver");
  const name = keys.get("driver") ?? "";
  const bare = name.replace(/-pci(?:-non-transitional|-transitional)?$/, "");
  const plain = DRIVERS.get(bare);
  const rom: readonly HostItem[] = (keys.get("romfile") ?? "") === "" ? [] : [{ kind: "injected", what }];
  if (plain !== undefined) return [{ kind: plain, what }, ...rom];
  const { known, read } = READ.get(bare) ?? { known: made, read: () => [deviceMade(name, what)] };
  return [...read(keys, what, machine), ...strangers(keys, known, what), ...rom];
};

/** QEMU takes the one before the other, and a path may be a link: both, or one elsewhere, is nothing that can be told. */
function vfioOf(keys: OptionKeys, what: string): HostItem {
  const [host, sysfs] = [keys.get("host"), keys.get("sysfsdev")];
  const named = host ?? /^\/sys\/bus\/pci\/devices\/([^/]+)$/.exec(sysfs ?? "")?.[1];
  const address = host !== undefined && sysfs !== undefined ? null : pciAddress(named ?? "");
  return address === null ? { kind: "unknown", what } : { kind: "pci", what, address };
}

function usbItem(keys: OptionKeys, what: string): HostItem {
  return { kind: "usb", what, ...usbOf(keys) };
}

function diskOf(keys: OptionKeys, what: string, { drives }: QemuMachine): readonly HostItem[] {
  const readOnly = isReadOnly(drives.get(keys.get("drive") ?? ""));
  return [{ kind: "disk", what, role: roleOf(keys.get("serial"), keys.get("bootindex")), readOnly }];
}

/** A whole address with its domain, as sysfs names it, or null. */
export function pciAddress(text: string): string | null {
  const found = /^(?:([0-9a-f]{1,4}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])$/i.exec(text);
  if (found === null) return null;
  const [, domain = "0", bus = "", slot = "", part = ""] = found;
  return `${domain.padStart(4, "0")}:${bus.padStart(2, "0")}:${slot.padStart(2, "0")}.${part}`.toLowerCase();
}

function usbOf(keys: OptionKeys) {
  const [vendor, product] = [usbId(keys.get("vendorid")), usbId(keys.get("productid"))];
  return {
    id: vendor === null || product === null ? null : `${vendor}:${product}`,
    place: usbPlace(keys.get("hostbus"), keys.get("hostaddr")),
  };
}

export function usbPlace(bus: string | undefined, device: string | undefined): UsbPlace | null {
  const [first, second] = [readNumber(bus ?? ""), readNumber(device ?? "")];
  return first === null || second === null ? null : { bus: first, device: second };
}

/** Four lower-case hexadecimal digits of a number as QEMU reads it. */
export function usbId(text: string | undefined): string | null {
  const number = readNumber(text ?? "");
  return number === null || number > 0xffff ? null : number.toString(16).padStart(4, "0");
}
