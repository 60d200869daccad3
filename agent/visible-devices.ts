import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { isUsbDevice, listDevices } from "../attest/index.ts";
import type { AgentConfig } from "./config.ts";

/** Every PCI function and USB device that the kernel shows now, in the form in which the policy lists them. */
export async function visibleDevices(
  config: Pick<AgentConfig, "pciDevices" | "usbDevices">,
): Promise<readonly string[]> {
  const { pciDevices, usbDevices } = config;
  const pci = async (address: string) => {
    const [vendor, device] = await texts(pciDevices, address, ["vendor", "device"]);
    return { address, vendor, device };
  };
  const usb = async (name: string) => {
    const [idVendor, idProduct] = await texts(usbDevices, name, ["idVendor", "idProduct"]);
    return { name, idVendor, idProduct };
  };
  const usbNames = (await namesIn(usbDevices)).filter(isUsbDevice);
  return listDevices(await Promise.all((await readdir(pciDevices)).map(pci)), await Promise.all(usbNames.map(usb)));
}

function texts(directory: string, device: string, files: readonly [string, string]): Promise<[string, string]> {
  const [first, second] = files.map((file) => readFile(join(directory, device, file), "utf8"));
  return Promise.all([first ?? "", second ?? ""]);
}

/** A kernel without USB has no such directory: there are no devices then. */
async function namesIn(directory: string): Promise<readonly string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
    throw error;
  }
}
