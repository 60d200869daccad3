import { type PolicyDocument, sha256Hex, utf8 } from "../../policy/index.ts";
import { type GuestTree, requireGuestFile } from "../../vm-images/guest-tree.ts";
import { PROGRAMS } from "../../vm-images/pin-module.ts";
import { vmPciDevices } from "../../vm-images/qemu-args.ts";
import type { MachineDifference } from "../../vm-images/story/machine.ts";
import { TOKEN_DIRECTORY } from "../../vm-images/token/token.ts";
import { moduleOverSofthsm } from "./over-softhsm.ts";

/** Where profile `usb` lets a library write. */
const WRITABLE = "/var/lib/hsm";

/** QEMU's USB controller with a smart card reader on it, and a slot into which a PCI function can be plugged later. */
export const READER = "usb:08e6:4433";
export const READER_DEVICES = ["pcie-root-port,id=port0,chassis=1,slot=1", "qemu-xhci,id=usb", "usb-ccid,id=reader"];
const READER_LIST = ["1b36:000c", "1b36:000d", READER];

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
  const { library, files } = await moduleOverSofthsm("usb-token", { directory, cacheDirectory });
  const moved = files.map(({ path, bytes }) => ({
    path,
    bytes: path.endsWith(".conf") ? utf8(Buffer.from(bytes).toString().replace(TOKEN_DIRECTORY, WRITABLE)) : bytes,
  }));
  return { module: { library, files: moved }, tokenDirectory: WRITABLE, policy: usbPolicy };
}
