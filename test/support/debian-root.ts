// node test/support/debian-root.ts --update: locks the newest versions of the packages that the lock file names.
import { cp, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { Archive } from "../../vm-images/apt.ts";
import { encodeCpio } from "../../vm-images/cpio.ts";
import { listFiles } from "../../vm-images/digest.ts";
import { kernelModules } from "../../vm-images/initrd.ts";
import { MACHINE_WORDS } from "../../vm-images/kernel-image.ts";
import { readWholeLock } from "../../vm-images/lock.ts";
import { fetchPackages, type PackageSet } from "../../vm-images/packages.ts";
import { runTool } from "../../vm-images/tool.ts";
import { buildUki } from "../../vm-images/uki.ts";
import { unpackPackages } from "../../vm-images/unpack.ts";

// An ordinary Debian from its packages alone: systemd as init, dpkg with its database, and nothing of ours.

const CACHE = resolve(import.meta.dirname, "../../build/cache");
const LOCK = join(import.meta.dirname, "debian.lock.json");
/** Enough for the packages, ours, and what a machine writes. */
const DISK_BYTES = 700 * 1024 * 1024;
const USERS = [
  "tss:x:101:101::/:/usr/sbin/nologin",
  "signer:x:2001:2001::/:/bin/sh",
  "stranger:x:2002:2002::/:/bin/sh",
];

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

/** A root shell for the test. What is opened is one description for both ways: a port takes no second one. */
const SHELL_UNIT = `[Unit]
DefaultDependencies=no
After=systemd-udev-trigger.service
[Service]
ExecStart=/bin/sh -c 'until [ -e $PORT ]; do sleep 0.2; done; exec /bin/sh 0<>$PORT 1>&0 2>&0'
Environment=PORT=/dev/virtio-ports/ironclaw.shell
Restart=always
KillMode=process
[Install]
WantedBy=multi-user.target
`;

export interface DebianKernel {
  readonly uki: Uint8Array;
  readonly modules: string;
  readonly release: string;
}

const KERNEL = "linux-image-6.12-cloud-amd64";

/** Debian's kernel as a unified image, as \`dracut --uefi\` or \`ukify\` make it. */
export async function debianKernel(): Promise<DebianKernel> {
  const wanted = (await readWholeLock()).filter(({ group, through }) => group === "stub" || through === KERNEL);
  const set = await fetchPackages(CACHE, wanted);
  const tree = await unpackPackages(set, ["kernel"], CACHE);
  const stub = await unpackPackages(set, ["stub"], CACHE);
  const [file = ""] = await listFiles(join(tree, "boot"), (name) => name.startsWith("vmlinuz-"));
  const release = file.replace("vmlinuz-", "");
  const uki = await buildUki({
    stub: await readFile(join(stub, "usr/lib/systemd/boot/efi/linuxx64.efi.stub")),
    osRelease: await readFile(join(await debianTree(), "usr/lib/os-release"), "utf8"),
    commandLine: [...MACHINE_WORDS, "systemd.show_status=0"].join(" "),
    ...{ release, kernel: await readFile(join(tree, "boot", file)), initrd: await initrd(tree) },
  });
  return { uki, modules: join(tree, "usr/lib/modules"), release };
}

async function initrd(kernelTree: string): Promise<Uint8Array> {
  const busybox = await readFile(join(await debianTree(), "usr/bin/busybox"));
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

async function lockedPackages(): Promise<PackageSet> {
  return fetchPackages(CACHE, await readWholeLock(LOCK));
}

async function debianTree(): Promise<string> {
  return unpackPackages(await lockedPackages(), ["guest"], CACHE);
}

export interface DebianRoot {
  /** The root's names and contents, with those of `overlay`. */
  readonly tree: string;
  /** Writes the disk. */
  build(path: string): Promise<void>;
}

/** @param files of the administrator's, by their paths in the root */
export async function debianRoot(directory: string, { modules, release }: DebianKernel): Promise<DebianRoot> {
  const tree = join(directory, "debian");
  await runTool("cp", ["-a", "--reflink=auto", `${await debianTree()}/.`, tree]);
  const put = async (path: string, text: string) => {
    await mkdir(dirname(join(tree, path)), { recursive: true });
    await writeFile(join(tree, path), text);
  };
  await runTool("sh", [
    "-c",
    'cd "$1" && rm -rf usr/share/doc usr/share/man usr/share/info usr/share/locale',
    "sh",
    tree,
  ]);
  for (const place of ["proc", "sys", "dev", "run", "tmp", "root", "boot", "var/tmp"])
    await mkdir(join(tree, place), { recursive: true });
  const master = (name: string) => readFile(join(tree, `usr/share/base-passwd/${name}.master`), "utf8");
  const groups = USERS.map((line) => line.replace(/^(\w+):x:\d+:(\d+):.*/, "$1:x:$2:"));
  await put("etc/passwd", `${await master("passwd")}${USERS.join("\n")}\n`);
  await put("etc/group", `${await master("group")}${groups.join("\n")}\n`);
  await put("etc/shadow", "");
  await put("etc/hostname", "debian\n");
  await put("etc/machine-id", "13c1a001000000000000000000000001\n"); // with none, systemd takes it for a first boot
  await put("etc/systemd/system/test-shell.service", SHELL_UNIT);
  await put("etc/systemd/system/multi-user.target.wants/.keep", "");
  await symlink("../test-shell.service", join(tree, "etc/systemd/system/multi-user.target.wants/test-shell.service"));
  await symlink("/lib/systemd/system/multi-user.target", join(tree, "etc/systemd/system/default.target"));
  await writeDatabase(put);
  await cp(modules, join(tree, "usr/lib/modules"), { recursive: true });
  await asRoot(["chroot", tree, "/sbin/depmod", release]);
  return {
    tree,
    build: async (path) => {
      await writeFile(path, "");
      await asRoot(["mke2fs", "-q", "-t", "ext4", "-d", tree, path, `${DISK_BYTES / 1024}k`]);
    },
  };
}

/** What dpkg would know if it had installed all this. */
async function writeDatabase(put: (path: string, text: string) => Promise<void>): Promise<void> {
  const { packages } = await lockedPackages();
  const controls = await Promise.all(packages.map(({ path }) => runTool("dpkg-deb", ["--field", path])));
  const status = controls.map((text) => text.replace(/^(Package: .*)$/m, "$1\nStatus: install ok installed"));
  await put("var/lib/dpkg/status", `${status.map((text) => text.trim()).join("\n\n")}\n`);
  for (const [index, { name }] of packages.entries()) {
    const same = /^Multi-Arch: same$/m.test(controls[index] ?? "");
    await put(`var/lib/dpkg/info/${name}${same ? ":amd64" : ""}.list`, "/.\n");
  }
  await put("var/lib/dpkg/info/format", "1\n");
  await put("var/lib/dpkg/updates/.keep", "");
}

/** The files belong to whoever runs this, and have to be root's on the disk: in a user namespace they are. */
function asRoot(command: readonly string[]): Promise<string> {
  return runTool("unshare", [...(process.getuid?.() === 0 ? ["--mount"] : ["--user", "--map-root-user"]), ...command]);
}

async function update(): Promise<void> {
  const names = (await readWholeLock(LOCK)).map(({ name }) => name);
  const found = new Map((await new Archive(join(CACHE, "apt")).describe(names)).map((entry) => [entry.name, entry]));
  const packages = names.map((name) => {
    const entry = found.get(name);
    if (entry === undefined) throw new Error(`package ${name}: not in the archive`);
    return { group: "guest", name, version: entry.version, sha256: entry.sha256 };
  });
  await writeFile(LOCK, `${JSON.stringify({ suite: "bookworm", packages }, null, 2)}\n`);
}

if (import.meta.main && process.argv[2] === "--update") await update();
