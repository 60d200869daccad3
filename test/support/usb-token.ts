import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type PolicyDocument, sha256Hex } from "../../policy/index.ts";
import { softhsmFiles } from "../../vm-images/build.ts";
import { type GuestTree, requireGuestFile } from "../../vm-images/guest-tree.ts";
import { PROGRAMS } from "../../vm-images/pin-module.ts";
import { vmPciDevices } from "../../vm-images/qemu-args.ts";
import type { MachineDifference } from "../../vm-images/story/machine.ts";
import { TOKEN_DIRECTORY } from "../../vm-images/token/token.ts";

const root = resolve(import.meta.dirname, "../..");
const LIBRARY = "/usr/lib/usb-token/libusb-token.so";
/** Where profile `usb` lets a library write. */
const WRITABLE = "/var/lib/hsm";

/** QEMU's USB controller with a smart card reader on it, and a slot into which a PCI function can be plugged later. */
export const READER = "usb:08e6:4433";
export const READER_DEVICES = ["pcie-root-port,id=port0,chassis=1,slot=1", "qemu-xhci,id=usb", "usb-ccid,id=reader"];
const READER_LIST = ["1b36:000c", "1b36:000d", READER];

/** usb-token.c over the SoftHSM of the image's packages. */
async function usbModule(directory: string, cacheDirectory: string): Promise<NonNullable<MachineDifference["module"]>> {
  const output = join(directory, "libusb-token.so");
  execFileSync("gcc", [
    ...["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-fPIC", "-fvisibility=hidden", "-shared"],
    ...[`-I${root}/agent/shim`, "-o", output, join(import.meta.dirname, "usb-token.c")],
    ...["-L/usr/lib/softhsm", "-l:libsofthsm2.so", "-Wl,-rpath,/usr/lib/softhsm"],
  ]);
  const softhsm = (await softhsmFiles(cacheDirectory)).map(({ path, bytes }) => ({
    path,
    bytes: path.endsWith(".conf")
      ? Buffer.from(Buffer.from(bytes).toString().replace(TOKEN_DIRECTORY, WRITABLE))
      : bytes,
  }));
  return { library: LIBRARY, files: [...softhsm, { path: LIBRARY, bytes: await readFile(output) }] };
}

function usbPolicy(demo: PolicyDocument, tree: GuestTree): PolicyDocument {
  const modules = Object.entries(demo.modules ?? {}).map(([name, module]) => {
    const sha256 = sha256Hex(requireGuestFile(tree, `${PROGRAMS}/usb.profile`));
    // One shim: the reader's interface can be claimed once.
    const opened = { profile: { name: "usb", sha256 }, nodes: [READER], writable: [WRITABLE], spares: 0 } as const;
    return [name, { ...module, ...opened }] as const;
  });
  return { ...demo, modules: Object.fromEntries(modules), devices: [...vmPciDevices, ...READER_LIST].sort() };
}

/** A machine whose token is behind that reader, and that shows nothing else. */
export async function usbMachine(directory: string, cacheDirectory: string): Promise<MachineDifference> {
  return { module: await usbModule(directory, cacheDirectory), tokenDirectory: WRITABLE, policy: usbPolicy };
}
