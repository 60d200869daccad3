import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { utf8 } from "../../policy/index.ts";
import { buildEsp } from "../../vm-images/esp.ts";
import type { DebianKernel } from "./debian-kernel.ts";
import { type DebianSuite, debianTree } from "./debian-release.ts";

// The way of an ordinary Debian: firmware, shim, GRUB, and a menu in /boot, which lies on the same disk here. Both loaders are the release's signed ones.

const LOADERS = { shim: "usr/lib/shim/shimx64.efi.signed", grub: "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" };
/** What grub-install writes beside the signed GRUB, which has this place built in. */
const FIRST_STAGE = "search.fs_label ESP root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n";

export interface GrubDisk {
  readonly kernel: DebianKernel;
  /** One of the menu's lines of `MENU`, or others. */
  readonly entry: string;
  /** The unified kernel image in /boot. */
  readonly uki?: Uint8Array;
}

/** What grub-mkconfig makes of a kernel, and the entry that agent/docs/install.md adds. */
export const MENU = {
  linux: ({ release, commandLine }: DebianKernel) =>
    `  linux /boot/vmlinuz-${release} ${commandLine}\n  initrd /boot/initrd.img-${release}\n`,
  chainloader: "  chainloader /boot/debian.efi\n",
} as const;

/** Writes the disk that the firmware starts from. */
export async function buildGrubDisk(suite: DebianSuite, path: string, { kernel, entry, uki }: GrubDisk): Promise<void> {
  const tree = await debianTree(suite, "stub");
  const menu = `set timeout=0\nmenuentry 'Debian GNU/Linux' {\n${entry}}\n`;
  await buildEsp(await readFile(join(tree, LOADERS.shim)), path, [
    { path: "/EFI/BOOT/grubx64.efi", bytes: await readFile(join(tree, LOADERS.grub)) },
    { path: "/EFI/debian/grub.cfg", bytes: utf8(FIRST_STAGE) },
    { path: "/boot/grub/grub.cfg", bytes: utf8(menu) },
    { path: `/boot/vmlinuz-${kernel.release}`, bytes: await readFile(kernel.kernel) },
    { path: `/boot/initrd.img-${kernel.release}`, bytes: kernel.initrd },
    { path: "/boot/debian.efi", bytes: uki ?? kernel.uki },
  ]);
}
