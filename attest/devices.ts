import { AttestError } from "./errors.ts";

/** A PCI function as /sys/bus/pci/devices/ADDRESS shows it: the text of its `vendor` and `device` files. */
export interface PciFunction {
  /** The directory's name, e.g. `0000:00:01.0`; for error messages. */
  readonly address: string;
  /** e.g. `0x1af4\n` */
  readonly vendor: string;
  readonly device: string;
}

/** A USB device as /sys/bus/usb/devices/NAME shows it: the text of its `idVendor` and `idProduct` files. */
export interface UsbDevice {
  /** The directory's name, e.g. `1-2.4`, for which {@link isUsbDevice} holds. */
  readonly name: string;
  /** e.g. `08e6\n` */
  readonly idVendor: string;
  readonly idProduct: string;
}

/** One entry more or less than before in a device list. */
export interface DeviceChange {
  readonly device: string;
  readonly change: "added" | "removed";
}

/**
 * The sorted multiset of `vvvv:dddd` (lower-case hex vendor and device) that is measured and compared with the policy.
 * Two equal devices are two entries. Addresses are left out: they differ between machines that are otherwise the same.
 * Throws {@link AttestError} ERR_MEASURE for text that sysfs does not write.
 */
export function listPciDevices(functions: readonly PciFunction[]): string[] {
  return functions
    .map(({ address, vendor, device }) => `${pciId(vendor, `${address} vendor`)}:${pciId(device, `${address} device`)}`)
    .sort();
}

/**
 * Whether a name in /sys/bus/usb/devices is that of a device, which has `idVendor` and `idProduct`, and not of a root hub
 * (`usb1`), which is part of a controller that PCI shows, or of an interface (`1-2:1.0`), which is part of a device. A hub
 * that was plugged in is a device, and so is one that is not authorised: it is there all the same.
 * Throws {@link AttestError} ERR_MEASURE for a name of another form: what is not understood is not left out.
 */
export function isUsbDevice(name: string): boolean {
  // drivers/usb/core: usb%d for a root hub, BUS-PORT[.PORT]... for a device, DEVICE:CONFIGURATION.INTERFACE for an interface
  if (/^[0-9]+-[0-9]+(\.[0-9]+)*$/.test(name)) return true;
  if (/^usb[0-9]+$/.test(name) || /^[0-9]+-[0-9]+(\.[0-9]+)*:[0-9]+\.[0-9]+$/.test(name)) return false;
  throw malformed("usb device", "usbN, BUS-PORT or an interface of one", JSON.stringify(name));
}

/**
 * The sorted multiset of `usb:vvvv:pppp` (lower-case hex vendor and product). Ids are the device's own words: they tell what it
 * says that it is, not what it is.
 * Throws {@link AttestError} ERR_MEASURE for a name that is no device's and for text that sysfs does not write.
 */
export function listUsbDevices(devices: readonly UsbDevice[]): string[] {
  return devices
    .map(({ name, idVendor, idProduct }) => {
      if (!isUsbDevice(name)) throw malformed("usb device", "the name of a device", JSON.stringify(name));
      return `usb:${usbId(idVendor, `${name} idVendor`)}:${usbId(idProduct, `${name} idProduct`)}`;
    })
    .sort();
}

/** What a machine shows, as one sorted multiset: the policy's `devices`. */
export function listDevices(functions: readonly PciFunction[], usb: readonly UsbDevice[]): string[] {
  return [...listPciDevices(functions), ...listUsbDevices(usb)].sort();
}

/** What has come and gone between two lists, sorted by device. Two of a kind that came are two entries. */
export function compareDevices(before: readonly string[], after: readonly string[]): DeviceChange[] {
  const surplus = (of: readonly string[], over: readonly string[], change: DeviceChange["change"]): DeviceChange[] => {
    const left = new Map<string, number>();
    for (const device of over) left.set(device, (left.get(device) ?? 0) + 1);
    return of.flatMap((device) => {
      const count = left.get(device) ?? 0;
      left.set(device, count - 1);
      return count > 0 ? [] : [{ device, change }];
    });
  };
  const changes = [...surplus(before, after, "removed"), ...surplus(after, before, "added")];
  return changes.sort((a, b) => (a.device < b.device ? -1 : a.device === b.device ? 0 : 1));
}

/**
 * Read the lines that `formatDevices` writes. Refuses any other spelling or order.
 * Throws {@link AttestError} ERR_MEASURE.
 */
export function parseDevices(text: string): string[] {
  if (text === "") return [];
  const lines = text.split("\n");
  if (lines.pop() !== "") throw malformed("devices", "a line feed at the end", "none");
  lines.forEach((line, index) => {
    if (!/^(usb:)?[0-9a-f]{4}:[0-9a-f]{4}$/.test(line))
      throw malformed("devices", "vvvv:dddd or usb:vvvv:pppp in lower case", JSON.stringify(line));
    if (line < (lines[index - 1] ?? "")) throw malformed("devices", "ascending lines", JSON.stringify(line));
  });
  return lines;
}

/** One line for each device: the bytes whose SHA-256 is the `devices` measurement. */
export function formatDevices(devices: readonly string[]): string {
  return devices
    .toSorted()
    .map((device) => `${device}\n`)
    .join("");
}

function pciId(text: string, what: string): string {
  const id = /^0x([0-9a-f]{4})\n?$/.exec(text)?.[1];
  if (id === undefined) throw malformed(`pci ${what}`, "0x and four lower-case hex digits", JSON.stringify(text));
  return id;
}

function usbId(text: string, what: string): string {
  const id = /^([0-9a-f]{4})\n?$/.exec(text)?.[1];
  if (id === undefined) throw malformed(`usb ${what}`, "four lower-case hex digits", JSON.stringify(text));
  return id;
}

function malformed(what: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_MEASURE", what, { expected, got });
}
