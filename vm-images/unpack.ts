import { access, readdir, readlink, rename, rm, symlink } from "node:fs/promises";
import { join, relative } from "node:path";
import { sha256Hex } from "./digest.ts";
import type { PackageGroup } from "./lock.ts";
import { makeDirectory } from "./make-directory.ts";
import { PackageFiles, tarOf } from "./package-clash.ts";
import type { PackageSet } from "./packages.ts";

// In a merged-/usr system these names are links; making them first lets every package's files land in one place.
const MERGED = ["bin", "sbin", "lib", "lib64"];

/** SHA-256 over the names, versions and digests of these groups' packages. */
export function digestOfPackages(set: PackageSet, groups: readonly PackageGroup[]): string {
  const chosen = set.packages.filter(({ group }) => groups.includes(group));
  return sha256Hex(chosen.map((item) => `${item.group} ${item.name} ${item.version} ${item.sha256}\n`).join(""));
}

/**
 * Unpack the packages of some groups into one tree below `cacheDirectory`, named by their digest, and return the
 * tree's path. No maintainer script runs, nothing is installed, no privilege is needed. A tree that is there is reused.
 * @throws ImageError ERR_IMAGE_PACKAGE when two packages have different files of one name
 */
export async function unpackPackages(
  set: PackageSet,
  groups: readonly PackageGroup[],
  cacheDirectory: string,
): Promise<string> {
  const tree = join(cacheDirectory, "trees", `${groups.join("+")}-${digestOfPackages(set, groups).slice(0, 16)}`);
  if (await exists(tree)) return tree;
  const partial = `${tree}.partial-${process.pid}`;
  await rm(partial, { recursive: true, force: true });
  for (const name of MERGED) {
    await makeDirectory(join(partial, "usr", name));
    await symlink(`usr/${name}`, join(partial, name));
  }
  const files = new PackageFiles(partial);
  for (const item of set.packages.filter(({ group }) => groups.includes(group))) {
    await files.claim(item);
    await unpack(item.path, partial);
  }
  await keepLinksInside(partial);
  // Two builds at once: the first one to finish wins, the other tree has the same content.
  await rename(partial, tree).catch(() => rm(partial, { recursive: true, force: true }));
  return tree;
}

/** dpkg-deb's own extraction replaces a link by a directory of the same name, so tar does it. */
async function unpack(deb: string, into: string): Promise<void> {
  await tarOf(deb, "-x", "-C", into, "--keep-directory-symlink", "--no-same-owner", "--no-same-permissions");
}

/** An absolute link means a file of the same tree, not this machine's: the loader's is one, and the linker follows it. */
async function keepLinksInside(tree: string, directory = tree): Promise<void> {
  // Not readdir's own recursion: that one follows links to directories, out of the tree if need be.
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) await keepLinksInside(tree, path);
    const target = entry.isSymbolicLink() ? await readlink(path) : "";
    if (!target.startsWith("/")) continue;
    await rm(path);
    await symlink(relative(directory, join(tree, target)), path);
  }
}

export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
