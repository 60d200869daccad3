import { AttestError } from "./errors.ts";

/** A PCI function as /sys/bus/pci/devices/ADDRESS shows it: the text of its `vendor` and `device` files. */
export interface PciFunction {
  /** The directory's name, e.g. `0000:00:01.0`; for error messages. */
  readonly address: string;
  /** e.g. `0x1af4\n` */
  readonly vendor: string;
  readonly device: string;
}

/**
 * The sorted multiset of `vvvv:dddd` (lower-case hex vendor and device) that is measured and compared with the policy.
 * Two equal devices are two entries. Addresses are left out: they differ between machines that are otherwise the same.
 * Throws {@link AttestError} ERR_MEASURE for text that sysfs does not write.
 */
export function listPciDevices(functions: readonly PciFunction[]): string[] {
  return functions
    .map(
      ({ address, vendor, device }) =>
        `${sysfsId(vendor, `${address} vendor`)}:${sysfsId(device, `${address} device`)}`,
    )
    .sort();
}

/**
 * Read `vvvv:dddd` lines, as `formatPciDevices` writes them. Refuses any other spelling or order.
 * Throws {@link AttestError} ERR_MEASURE.
 */
export function parsePciDevices(text: string): string[] {
  if (text === "") return [];
  const lines = text.split("\n");
  if (lines.pop() !== "") throw malformed("pci devices", "a line feed at the end", "none");
  lines.forEach((line, index) => {
    if (!/^[0-9a-f]{4}:[0-9a-f]{4}$/.test(line))
      throw malformed("pci devices", "vvvv:dddd in lower case", JSON.stringify(line));
    if (line < (lines[index - 1] ?? "")) throw malformed("pci devices", "ascending lines", JSON.stringify(line));
  });
  return lines;
}

/** One line for each device: the bytes whose SHA-256 is the `devices` measurement. */
export function formatPciDevices(devices: readonly string[]): string {
  return devices
    .toSorted()
    .map((device) => `${device}\n`)
    .join("");
}

function sysfsId(text: string, what: string): string {
  const id = /^0x([0-9a-f]{4})\n?$/.exec(text)?.[1];
  if (id === undefined) throw malformed(`pci ${what}`, "0x and four lower-case hex digits", JSON.stringify(text));
  return id;
}

function malformed(what: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_MEASURE", what, { expected, got });
}
