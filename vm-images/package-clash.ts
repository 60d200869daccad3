import { lstat, mkdir, readFile, readlink, realpath, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import { ImageError } from "./errors.ts";
import { withScratch } from "./scratch.ts";
import { runTool } from "./tool.ts";

/** `dpkg-deb | tar` over a package's files, with these further words for tar. */
export function tarOf(deb: string, ...words: readonly string[]): Promise<string> {
  const pipeline = 'set -o pipefail; deb=$1; shift; dpkg-deb --fsys-tarfile "$deb" | tar "$@"';
  return runTool("bash", ["-c", pipeline, "tar", deb, ...words]);
}

/** A package and its archive. */
interface PackageFile {
  readonly name: string;
  readonly path: string;
}

/** A file that another package has brought: as the archive calls it, and where it comes to lie. */
interface Shared {
  readonly member: string;
  readonly place: string;
  readonly owner: string;
}

/**
 * Which package each file of a tree is of. dpkg would refuse a package that has another one's file; tar, which unpacks here, would replace it
 * without a word, and which of the two were measured would depend on the order of a lock file.
 */
export class PackageFiles {
  readonly #tree: string;
  readonly #owners = new Map<string, string>();

  constructor(tree: string) {
    this.#tree = tree;
  }

  /**
   * To be asked before a package is unpacked. Directories, and files that are the same in both, may be of several.
   * @throws ImageError ERR_IMAGE_PACKAGE that names the file and both packages
   */
  async claim({ name, path }: PackageFile): Promise<void> {
    const listed = await tarOf(path, "-t", "--quoting-style=literal");
    const members = listed.split("\n").filter((member) => member !== "" && !member.endsWith("/"));
    const shared: Shared[] = [];
    for (const member of members) {
      const place = await this.#placeOf(member);
      const owner = this.#owners.get(place);
      if (owner === undefined) this.#owners.set(place, name);
      else shared.push({ member, place, owner });
    }
    if (shared.length > 0) await this.#requireSame({ name, path }, shared);
  }

  async #requireSame({ name, path }: PackageFile, shared: readonly Shared[]): Promise<void> {
    await withScratch("package-", async (directory) => {
      const list = join(directory, "list");
      const tree = join(directory, "tree");
      await mkdir(tree);
      await writeFile(list, shared.map(({ member }) => `${member}\n`).join(""));
      await tarOf(path, "-x", "-C", tree, "--no-same-owner", "--verbatim-files-from", "--files-from", list);
      for (const { member, place, owner } of shared) {
        if (await isSame(join(tree, member), join(this.#tree, place))) continue;
        throw new ImageError("ERR_IMAGE_PACKAGE", `file /${place}`, {
          ...{ expected: `the one of package ${owner}`, got: `another one of package ${name}` },
          hint: "an image takes one of the two: name one package less in the recipe",
        });
      }
    });
  }

  /** Where a member comes to lie: the names above it may be links, `bin` in every tree. One that leads out of the tree tar would follow, too. */
  async #placeOf(member: string): Promise<string> {
    const path = join(this.#tree, member);
    let [above, below] = [dirname(path), basename(path)];
    let real = await realpath(above).catch(() => null);
    while (real === null) {
      [above, below] = [dirname(above), join(basename(above), below)];
      real = await realpath(above).catch(() => null);
    }
    const place = relative(await realpath(this.#tree), join(real, below));
    if (!place.startsWith("../")) return place;
    throw new ImageError("ERR_IMAGE_PACKAGE", `file ${member}`, {
      expected: "a place in the tree",
      got: "one behind another package's link that leads out of it",
    });
  }
}

async function isSame(one: string, other: string): Promise<boolean> {
  const [first, second] = [await lstat(one), await lstat(other)];
  if (first.isSymbolicLink() && second.isSymbolicLink()) return (await readlink(one)) === (await readlink(other));
  if (!first.isFile() || !second.isFile()) return false;
  return (first.mode & 0o111) === (second.mode & 0o111) && (await readFile(one)).equals(await readFile(other));
}
