import { cp, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { runTool } from "../../vm-images/tool.ts";
import { asRoot, type DebianKernel } from "./debian-kernel.ts";
import { type DebianSuite, debianPackages, debianTree } from "./debian-release.ts";

// An ordinary Debian from its packages alone: systemd as init, dpkg with its database, and nothing of ours.

/** Enough for the packages, ours, and what a machine writes. */
const DISK_BYTES = 700 * 1024 * 1024;
const USERS = [
  "tss:x:101:101::/:/usr/sbin/nologin",
  "signer:x:2001:2001::/:/bin/sh",
  "stranger:x:2002:2002::/:/bin/sh",
];

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

export interface DebianRoot {
  /** The root's names and contents. */
  readonly tree: string;
  /** Writes the disk. */
  build(path: string): Promise<void>;
}

export async function debianRoot(
  directory: string,
  suite: DebianSuite,
  { modules, release }: DebianKernel,
): Promise<DebianRoot> {
  const tree = join(directory, "debian");
  await runTool("cp", ["-a", "--reflink=auto", `${await debianTree(suite)}/.`, tree]);
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
  // Nobody virtualises in an emulated machine, and what this module patches in the kernel older QEMUs run as it was: a double fault.
  await put("etc/modprobe.d/no-kvm.conf", "blacklist kvm_amd\nblacklist kvm_intel\n");
  await put("etc/systemd/system/test-shell.service", SHELL_UNIT);
  await put("etc/systemd/system/multi-user.target.wants/.keep", "");
  await symlink("../test-shell.service", join(tree, "etc/systemd/system/multi-user.target.wants/test-shell.service"));
  await symlink("/lib/systemd/system/multi-user.target", join(tree, "etc/systemd/system/default.target"));
  await writeDatabase(suite, put);
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
async function writeDatabase(suite: DebianSuite, put: (path: string, text: string) => Promise<void>): Promise<void> {
  const packages = (await debianPackages(suite)).packages.filter(({ group }) => group === "guest");
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
