import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { HostDevice, HostDevices } from "./exposure.ts";

/** Class codes of PCI functions below which more devices appear: bridges, and serial buses such as USB, FireWire, Thunderbolt (0x0c). */
const BUS_CLASSES = /^0x0(?:6|c0[0-4a])/;
/** bDeviceClass of a hub. */
const HUB = "09";

/** The devices of the host that this runs on. @param root for tests: another `/sys` */
export function sysfsDevices(root = "/sys"): HostDevices {
  const read = (...path: string[]): string | null => {
    try {
      return readFileSync(join(root, ...path), "utf8").trim();
    } catch {
      return null; // no such device, or none of its kind
    }
  };
  return {
    pci: (address) => {
      const at = ["bus/pci/devices", address] as const;
      const [vendor, device, kind] = [read(...at, "vendor"), read(...at, "device"), read(...at, "class")];
      if (vendor === null || device === null || kind === null) return null;
      return { id: `${vendor.slice(2)}:${device.slice(2)}`, isBus: BUS_CLASSES.test(kind) };
    },
    usb: (bus, device) => findUsb(join(root, "bus/usb/devices"), read, bus, device),
  };
}

function findUsb(
  directory: string,
  read: (...path: string[]) => string | null,
  bus: number,
  device: number,
): HostDevice | null {
  for (const name of entries(directory)) {
    const file = (part: string) => read("bus/usb/devices", name, part);
    if (Number(file("busnum") ?? "-1") !== bus || Number(file("devnum") ?? "-1") !== device) continue;
    return { id: `usb:${file("idVendor")}:${file("idProduct")}`, isBus: file("bDeviceClass") === HUB };
  }
  return null;
}

function entries(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch {
    return []; // a host without USB
  }
}
