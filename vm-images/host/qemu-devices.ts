import {
  deviceMade,
  diskMade,
  type HostItem,
  type PlainKind,
  portNamed,
  roleOf,
  type UsbPlace,
} from "./configuration.ts";
import type { OptionValue } from "./words.ts";

/** Disks and TPMs by the id that a device names. */
export interface Backends {
  readonly drives: ReadonlyMap<string, OptionValue>;
  readonly tpms: ReadonlyMap<string, OptionValue>;
}

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

/** What one `-device` gives. */
export function readDevice(option: OptionValue, what: string, backends: Backends): readonly HostItem[] {
  const { keys } = option;
  const driver = option.head === "" ? (keys.get("driver") ?? "") : option.head;
  const bare = driver.replace(/-pci(?:-non-transitional|-transitional)?$/, "");
  const plain = DRIVERS.get(bare);
  const rom: readonly HostItem[] = (keys.get("romfile") ?? "") === "" ? [] : [{ kind: "injected", what }];
  if (plain !== undefined) return [{ kind: plain, what }, ...rom];
  return [...deviceItems(driver, bare, keys, what, backends), ...rom];
}

function deviceItems(
  driver: string,
  bare: string,
  keys: ReadonlyMap<string, string>,
  what: string,
  backends: Backends,
): readonly HostItem[] {
  switch (bare) {
    case "vfio":
      return [vfioOf(keys, what)];
    case "usb-host":
      // QEMU opens these whatever else is named.
      return [keys.has("hostdevice") || keys.has("hostport") ? { kind: "unknown", what } : usbItem(keys, what)];
    case "virtio-blk":
      return [diskMade(what), ...diskOf(keys, what, backends)];
    case "scsi-hd":
    case "scsi-cd":
    case "ide-hd":
    case "ide-cd":
    case "usb-storage":
      return [...diskOf(keys, what, backends)];
    case "virtserialport":
      return [portNamed(keys.get("name") ?? "", what)];
    case "virtconsole":
    case "isa-serial":
      return [];
    case "tpm-crb":
    case "tpm-tis":
      return backends.tpms.has(keys.get("tpmdev") ?? "") ? [{ kind: "tpm", what, version: "2.0" }] : [];
    default:
      return [deviceMade(driver, what)];
  }
}

/** QEMU takes the one before the other, and a path may be a link: both, or one elsewhere, is nothing that can be told. */
function vfioOf(keys: ReadonlyMap<string, string>, what: string): HostItem {
  const [host, sysfs] = [keys.get("host"), keys.get("sysfsdev")];
  const named = host ?? /^\/sys\/bus\/pci\/devices\/([^/]+)$/.exec(sysfs ?? "")?.[1];
  const address = host !== undefined && sysfs !== undefined ? null : pciAddress(named ?? "");
  return address === null ? { kind: "unknown", what } : { kind: "pci", what, address };
}

function usbItem(keys: ReadonlyMap<string, string>, what: string): HostItem {
  return { kind: "usb", what, ...usbOf(keys) };
}

function diskOf(keys: ReadonlyMap<string, string>, what: string, backends: Backends): readonly HostItem[] {
  const readOnly = isReadOnly(backends, keys.get("drive"));
  return [{ kind: "disk", what, role: roleOf(keys.get("serial"), keys.get("bootindex")), readOnly }];
}

/** A whole address with its domain, or null. */
export function pciAddress(text: string): string | null {
  const [, domain = "0000", rest = ""] = /^(?:([0-9a-f]{4}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])$/i.exec(text) ?? [];
  return rest === "" ? null : `${domain}:${rest}`.toLowerCase();
}

function usbOf(keys: ReadonlyMap<string, string>) {
  const [vendor, product] = [usbId(keys.get("vendorid")), usbId(keys.get("productid"))];
  return {
    id: vendor === null || product === null ? null : `${vendor}:${product}`,
    place: usbPlace(keys.get("hostbus"), keys.get("hostaddr")),
  };
}

export function usbPlace(bus: string | undefined, device: string | undefined): UsbPlace | null {
  const decimal = /^\d{1,3}$/;
  if (bus === undefined || device === undefined || !decimal.test(bus) || !decimal.test(device)) return null;
  return { bus: Number(bus), device: Number(device) };
}

/** Four lower-case hexadecimal digits of `0x...`, or of a decimal number. */
export function usbId(text: string | undefined): string | null {
  const number = /^(?:0x[0-9a-f]{1,4}|\d{1,5})$/i.test(text ?? "") ? Number(text) : Number.NaN;
  return number <= 0xffff ? number.toString(16).padStart(4, "0") : null;
}

export function isReadOnly({ drives }: Backends, id: string | undefined): boolean {
  const drive = drives.get(id ?? "")?.keys;
  return drive?.get("readonly") === "on" || drive?.get("read-only") === "on";
}
