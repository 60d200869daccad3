import type { Files } from "./files.ts";
import type { Problem } from "./finding.ts";

/** How libcryptsetup begins the uuid of every dm-verity device; our initrd goes on with the root hash (vm-images/initrd/verity.c). */
const VERITY_UUID = /^CRYPT-VERITY-(?:(?<rootHash>[0-9a-f]{64})-)?/;

/**
 * Null where the kernel reads the root through dm-verity, by what it says of the mounted device: it is one of the device mapper's, read-only, and
 * whoever made it called it a verity device. That somebody else than the initrd made it, with that hash, is what the boot PCRs exclude, in which the
 * command line with the root hash is; without such a word there is nothing that they could vouch for.
 */
export function rootWeakness(files: Files): Problem | null {
  const expected = "a read-only root on dm-verity, with its root hash on the kernel's command line";
  const root = mountedRoot(files);
  if (root === null) return { expected, got: "no root among the mounts" };
  const { type, number, options } = root;
  const device = `/sys/dev/block/${number}`;
  const uuid = files.text(`${device}/dm/uuid`);
  if (!options.includes("ro") || files.text(`${device}/ro`) === "0") return { expected, got: `${type}, writable` };
  if (uuid === null) return { expected, got: `${type} on device ${number}, which is none of the device mapper's` };
  const verity = VERITY_UUID.exec(uuid);
  if (verity === null) return { expected, got: `${type} on device mapper device ${number}, which is no verity device` };
  if (namesRootHash(files, verity.groups?.["rootHash"])) return null;
  return { expected, got: `${type} on verity device ${number}, without its root hash on the command line` };
}

/** What is mounted last at / (proc_pid_mountinfo(5)): major and minor number, options of mount and file system, type. */
function mountedRoot(files: Files) {
  const line = files
    .text("/proc/self/mountinfo")
    ?.split("\n")
    .map((text) => text.split(" "))
    .findLast((fields) => fields[4] === "/");
  if (line === undefined) return null;
  const [type = "", , own = ""] = line.slice(line.indexOf("-") + 1);
  return { type, number: line[2] ?? "", options: [...(line[5] ?? "").split(","), ...own.split(",")] };
}

/** Our initrd's word, with this very hash; or systemd's, whose device has the uuid of the superblock instead. */
function namesRootHash(files: Files, rootHash: string | undefined): boolean {
  const words = files.text("/proc/cmdline")?.split(/\s+/) ?? [];
  return words.some((word) =>
    rootHash === undefined
      ? /^roothash=[0-9a-f]{64}$/.test(word)
      : word.startsWith("verity=") && word.split(":").includes(rootHash),
  );
}
