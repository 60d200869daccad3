import { copyFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeCpio } from "../../vm-images/cpio.ts";
import { listFiles } from "../../vm-images/digest.ts";
import { kernelModules } from "../../vm-images/initrd.ts";
import { MACHINE_WORDS } from "../../vm-images/kernel-image.ts";
import { runTool } from "../../vm-images/tool.ts";
import { buildUki } from "../../vm-images/uki.ts";
import { type DebianSuite, debianTree } from "./debian-release.ts";

// A release's kernel as a unified image, made as its administrators make one.

/** What initramfs-tools makes, in short: no systemd in it, so no phase of the boot is measured before the root's own. */
const INIT = `#!/bin/sh
busybox mount -t devtmpfs dev /dev; busybox mount -t proc proc /proc; busybox mount -t sysfs sys /sys
busybox insmod /virtio_blk.ko
for disk in vda vdb vdc vdd vde; do
  for tries in 1 2 3 4 5 6 7 8 9; do [ -b /dev/$disk ] || busybox sleep 0.1; done
  [ "$(busybox cat /sys/block/$disk/serial)" = root ] && busybox mount -t ext4 /dev/$disk /root
done
for place in dev proc sys; do busybox mount --move /$place /root/$place; done
exec busybox switch_root /root /lib/systemd/systemd
`;

const COMMAND_LINE = [...MACHINE_WORDS, "systemd.show_status=0"];
const STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";

interface KernelParts {
  readonly release: string;
  /** Path of the file. */
  readonly kernel: string;
  readonly initrd: Uint8Array;
  readonly commandLine: string;
}

export interface DebianKernel extends KernelParts {
  readonly uki: Uint8Array;
  readonly modules: string;
}

/** @param more words behind those that every machine here has */
export async function debianKernel(suite: DebianSuite, more: readonly string[] = []): Promise<DebianKernel> {
  const tree = await debianTree(suite, "kernel");
  const [file = ""] = await listFiles(join(tree, "boot"), (name) => name.startsWith("vmlinuz-"));
  const release = file.replace("vmlinuz-", "");
  const commandLine = [...COMMAND_LINE, ...more].join(" ");
  const parts = { release, kernel: join(tree, "boot", file), initrd: await initrd(suite, tree), commandLine };
  const uki = suite === "bookworm" ? await byObjcopy(suite, parts) : await byUkify(suite, parts);
  return { ...parts, uki, modules: join(tree, "usr/lib/modules") };
}

async function initrd(suite: DebianSuite, kernelTree: string): Promise<Uint8Array> {
  const busybox = await readFile(join(await debianTree(suite), "usr/bin/busybox"));
  const driver = (await kernelModules(kernelTree)).find(({ name }) => name === "virtio_blk");
  if (driver === undefined) throw new Error("kernel: virtio_blk is built in, and the initrd loads it");
  const program = (path: string, bytes: Uint8Array) => ({ path, mode: 0o755, bytes });
  return encodeCpio([
    program("init", Buffer.from(INIT)),
    ...["bin", "dev", "proc", "sys", "root"].map((name) => ({ path: `${name}/`, mode: 0o755 })),
    ...["busybox", "sh"].map((name) => program(`bin/${name}`, busybox)),
    { path: "virtio_blk.ko", mode: 0o644, bytes: driver.bytes },
  ]);
}

/** As `dracut --uefi` does. */
async function byObjcopy(
  suite: DebianSuite,
  { release, kernel, initrd, commandLine }: KernelParts,
): Promise<Uint8Array> {
  return buildUki({
    stub: await readFile(join(await debianTree(suite, "stub"), STUB)),
    osRelease: await readFile(join(await debianTree(suite), "usr/lib/os-release"), "utf8"),
    ...{ commandLine, release, kernel: await readFile(kernel), initrd },
  });
}

/** The release's own ukify, run by its own Python in its own root, from a command line's file as people write it. */
async function byUkify(suite: DebianSuite, { release, kernel, initrd, commandLine }: KernelParts): Promise<Uint8Array> {
  const work = await mkdtemp(join(tmpdir(), "ukify-"));
  try {
    await copyFile(kernel, join(work, "linux"));
    await copyFile(join(await debianTree(suite, "stub"), STUB), join(work, "stub"));
    await writeFile(join(work, "initrd"), initrd);
    await writeFile(join(work, "cmdline"), `${commandLine}\n`);
    const inputs = ["linux", "initrd", "stub"].map((name) => `--${name}=/tmp/${name}`);
    const texts = ["--cmdline=@/tmp/cmdline", "--os-release=@/usr/lib/os-release", `--uname=${release}`];
    await asRoot([
      ...["sh", "-c", 'mount --bind "$1" "$2/tmp" && cd "$2" && shift 2 && exec chroot . "$@"', "sh"],
      ...[work, await debianTree(suite), "/usr/bin/python3", "-B", "/usr/bin/ukify", "build"],
      ...[...inputs, ...texts, "--output=/tmp/uki.efi"],
    ]);
    return await readFile(join(work, "uki.efi"));
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Files belong to whoever runs this, and have to be root's on a disk: in a user namespace they are. Mounts end with the command. */
export function asRoot(command: readonly string[]): Promise<string> {
  return runTool("unshare", [
    ...(process.getuid?.() === 0 ? [] : ["--user", "--map-root-user"]),
    "--mount",
    ...command,
  ]);
}
