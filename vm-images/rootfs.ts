import { chmod, copyFile, readdir, readFile, realpath, rm, stat, symlink, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { accountFiles } from "./accounts.ts";
import { listFiles } from "./digest.ts";
import { libraryClosure } from "./elf.ts";
import { ImageError } from "./errors.ts";
import type { ImageFile } from "./files.ts";
import { makeDirectory } from "./make-directory.ts";
import { ownFiles } from "./own-files.ts";
import { type Recipe, rootPartOf } from "./recipes.ts";
import { runTool } from "./tool.ts";
import type { ImageVariant } from "./variants.ts";

/** One name of the root file system. `mode` is 0755 for programs, libraries and directories, else 0644. */
export type RootEntry =
  | {
      readonly kind: "file";
      readonly path: string;
      readonly source: string;
      readonly mode: number;
    }
  | {
      readonly kind: "bytes";
      readonly path: string;
      readonly bytes: Uint8Array;
      readonly mode: number;
    }
  | { readonly kind: "link"; readonly path: string; readonly target: string }
  | { readonly kind: "directory"; readonly path: string };

export interface RootSources {
  readonly variant: ImageVariant;
  readonly recipe: Recipe;
  /** Unpacked packages of the groups guest, dev and recipe. */
  readonly guestTree: string;
  /** Results of the native build for the image. */
  readonly nativeDirectory: string;
  /** Node's executable, stripped. */
  readonly node: string;
  readonly agentBundle: Uint8Array;
  readonly workloadBundle: Uint8Array;
  readonly profiles: ReadonlyMap<string, Uint8Array>;
  /** What a new state volume begins with. */
  readonly stateTemplate: Uint8Array;
}

const LIB = "/usr/lib/x86_64-linux-gnu";
const OWN = "/usr/lib/ironclaw";
const configuration = resolve(import.meta.dirname, "guest");

/** What no ELF file names and every root needs; what these link against is added by the closure. */
const PACKAGED = [
  `${LIB}/libtss2-tcti-device.so.0`,
  // The stand-in HSM's library needs these and is not itself in the root.
  `${LIB}/libcrypto.so.3`,
  `${LIB}/libstdc++.so.6`,
];

const NATIVE = ["tpm2_tss.node", "agent_native.node", "unsealer", "shim", "relay"];
/** The project's workload, for recipes that start it, and the add-on that it loads. */
export const WORKLOAD = `${OWN}/workload.cjs`;
const WORKLOAD_ADDON = "pkcs11.node";

const LINKS: readonly (readonly [path: string, target: string])[] = [
  ["/bin", "usr/bin"],
  ["/sbin", "usr/sbin"],
  ["/lib", "usr/lib"],
  ["/lib64", "usr/lib64"],
  ["/usr/lib64/ld-linux-x86-64.so.2", "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"],
  // libtss2's loader of transports asks for the unversioned name.
  [`${LIB}/libtss2-tcti-device.so`, "libtss2-tcti-device.so.0"],
];

const DIRECTORIES = ["/dev", "/proc", "/sys", "/run", "/tmp", "/var", "/usr/sbin"];

/**
 * Every name of the root file system, sorted; nothing else is in the image.
 * Throws {@link ImageError} ERR_IMAGE_SOURCE for a path or a library that no locked package has.
 */
export async function rootEntries(sources: RootSources): Promise<readonly RootEntry[]> {
  const { guestTree, nativeDirectory, recipe, variant } = sources;
  const { root, workloads } = rootPartOf(recipe, variant);
  const signs = workloads.some(({ argv }) => argv.includes(WORKLOAD));
  const own = await ownFiles(recipe);
  const program = (path: string, source: string): RootEntry => ({
    kind: "file",
    path,
    source,
    mode: 0o755,
  });
  const chosen = [
    program("/usr/bin/node", sources.node),
    ...(await Promise.all([...PACKAGED, ...root].map(async (path) => program(path, await packaged(guestTree, path))))),
    ...[...NATIVE, ...(signs ? [WORKLOAD_ADDON] : [])].map((name) =>
      program(`${OWN}/${name}`, join(nativeDirectory, name)),
    ),
  ];
  const linked = [...chosen, ...own.filter(({ elf }) => elf).map(({ entry }) => entry)];
  const libraries = await libraryClosure(
    guestTree,
    linked.flatMap((entry) => (entry.kind === "file" ? [entry.source] : [])),
  );
  const bytes = (path: string, content: Uint8Array): RootEntry => ({
    kind: "bytes",
    path,
    bytes: content,
    mode: 0o644,
  });
  const entries: RootEntry[] = [
    ...chosen,
    ...[...libraries].map(([path, source]) => program(path, source)),
    program("/init", join(nativeDirectory, "spawner")),
    bytes(`${OWN}/agent.cjs`, sources.agentBundle),
    ...(signs ? [bytes(WORKLOAD, sources.workloadBundle)] : []),
    ...[...sources.profiles].map(([name, content]) => bytes(`${OWN}/${name}`, content)),
    bytes(`${OWN}/state-volume.template`, sources.stateTemplate),
    ...(await configurationEntries()),
    ...[...accountFiles(workloads)].map(([path, content]) => bytes(path, content)),
    ...own.map(({ entry }) => entry),
    ...(sources.variant === "dev" ? await shellEntries(guestTree) : []),
    ...LINKS.map(([path, target]): RootEntry => ({ kind: "link", path, target })),
    ...DIRECTORIES.map((path): RootEntry => ({ kind: "directory", path })),
  ];
  return withoutConflict(entries).toSorted((a, b) => (a.path < b.path ? -1 : 1));
}

/** A library that is both chosen and in a closure is one file. Two that are not the same, or one behind a link, is a recipe's mistake. */
function withoutConflict(entries: readonly RootEntry[]): readonly RootEntry[] {
  const unique = new Map<string, RootEntry>();
  for (const entry of entries) {
    const other = unique.get(entry.path);
    const same = other?.kind === "file" && entry.kind === "file" && other.source === entry.source;
    const link = LINKS.find(([path]) => entry.path.startsWith(`${path}/`));
    if ((other !== undefined && !same) || link !== undefined) {
      throw new ImageError("ERR_IMAGE_SOURCE", `root ${entry.path}`, {
        expected: link === undefined ? "one file of that name" : `the path behind ${link[0]}, a link to ${link[1]}`,
        got: link === undefined ? "two" : "this one",
      });
    }
    unique.set(entry.path, entry);
  }
  return [...unique.values()];
}

async function packaged(guestTree: string, path: string): Promise<string> {
  const missing = () =>
    new ImageError("ERR_IMAGE_SOURCE", `root ${path}`, {
      expected: "a file of the locked packages",
      got: "none",
      hint: "name the package that has it in the recipe's packages",
    });
  const source = await realpath(join(guestTree, path)).catch(() => {
    throw missing();
  });
  if (!(await stat(source)).isFile() || !source.startsWith(`${await realpath(guestTree)}/`)) throw missing();
  return source;
}

async function configurationEntries(): Promise<RootEntry[]> {
  const files = await listFiles(configuration, () => true);
  return files.map((path) => ({
    kind: "file",
    path: `/${path}`,
    source: join(configuration, path),
    mode: 0o644,
  }));
}

/** A shell and the commonest commands, for the variant that is meant to be looked into. */
async function shellEntries(guestTree: string): Promise<RootEntry[]> {
  const busybox = join(guestTree, "usr/bin/busybox");
  const applets = (await runTool(busybox, ["--list"])).split("\n").filter((name) => name !== "" && name !== "busybox");
  return [
    { kind: "file", path: "/usr/bin/busybox", source: busybox, mode: 0o755 },
    ...applets.map(
      (name): RootEntry => ({
        kind: "link",
        path: `/usr/bin/${name}`,
        target: "busybox",
      }),
    ),
  ];
}

/** Write the entries below `directory`, which is emptied first, with modes of their own whatever the umask. */
export async function writeRoot(entries: readonly RootEntry[], directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true });
  await makeDirectory(directory);
  for (const entry of entries) {
    const path = join(directory, entry.path);
    await makeDirectory(entry.kind === "directory" ? path : dirname(path));
    await writeEntry(entry, path);
  }
  await chmodDirectories(directory);
}

async function writeEntry(entry: RootEntry, path: string): Promise<void> {
  if (entry.kind === "link") await symlink(entry.target, path);
  if (entry.kind === "file") await copyFile(entry.source, path);
  if (entry.kind === "bytes") await writeFile(path, entry.bytes);
  if (entry.kind === "file" || entry.kind === "bytes") await chmod(path, entry.mode);
}

async function chmodDirectories(directory: string): Promise<void> {
  await chmod(directory, 0o755);
  const found = await readdir(directory, {
    recursive: true,
    withFileTypes: true,
  });
  for (const entry of found) if (entry.isDirectory()) await chmod(join(entry.parentPath, entry.name), 0o755);
}

/**
 * The stand-in HSM: SoftHSM's library and its configuration, for the cabinet's module bundle. They are not in the root
 * image, as a vendor's library would not be; what the library links against is.
 */
export async function softhsmModule(moduleTree: string): Promise<readonly ImageFile[]> {
  const library = "/usr/lib/softhsm/libsofthsm2.so";
  const settings = [
    "directories.tokendir = /var/lib/softhsm/tokens",
    "objectstore.backend = file",
    "log.level = ERROR",
    "slots.removable = false",
    "",
  ];
  return [
    {
      path: "/etc/softhsm2.conf",
      bytes: new TextEncoder().encode(settings.join("\n")),
    },
    {
      path: library,
      bytes: await readFile(await realpath(join(moduleTree, library))),
    },
  ];
}
