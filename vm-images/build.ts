import { copyFile, link, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join, relative, resolve } from "node:path";
import { bundleWithPackages } from "./bundle.ts";
import { sha256File } from "./digest.ts";
import { ImageError } from "./errors.ts";
import { exclusively } from "./exclusive.ts";
import type { ImageFile } from "./files.ts";
import { imageDigest, rootDigest, toolVersions } from "./inputs.ts";
import { type Inventory, inventoryOf, rootOrigins } from "./inventory.ts";
import { buildKernelImage, kernelCommandLine } from "./kernel-image.ts";
import { readLock, recipeLock } from "./lock.ts";
import { makeDirectory } from "./make-directory.ts";
import { describeImage, type ImageManifest } from "./manifest.ts";
import { buildNative, NATIVE_PARTS } from "./native.ts";
import { stripNode } from "./node.ts";
import { fetchPackages, type PackageSet } from "./packages.ts";
import { compiledProfiles } from "./profiles.ts";
import { type Firmware, findFirmware } from "./qemu-args.ts";
import { type Recipe, readRecipe } from "./recipes.ts";
import { rootEntries, softhsmModule, WORKLOAD, writeRoot } from "./rootfs.ts";
import { imageSbom, SBOM_NAME } from "./sbom.ts";
import { type SecureBootKeys, secureBootVariables } from "./secure-boot.ts";
import { stateTemplate } from "./state-template.ts";
import { digestOfPackages, exists, unpackPackages } from "./unpack.ts";
import { writeVariables } from "./variable-store.ts";
import { type ImageVariant, isTrial } from "./variants.ts";
import { buildVerityRoot, verityArgument } from "./verity.ts";

export type { ImageManifest } from "./manifest.ts";

/** Flash of a machine with Secure Boot. */
const VARIABLES = "vars.fd";
/** Written last and whole: an image without it is none. */
const MANIFEST = "manifest.json";
const project = resolve(import.meta.dirname, "..");

export interface Image {
  readonly directory: string;
  readonly esp: string;
  readonly root: string;
  readonly uki: string;
  /** The firmware that a signed image is for, with the keys in its variables; else whatever firmware there is. */
  readonly firmware?: Firmware;
  /** Folder with the root file system's names and contents: what to pin without mounting anything. */
  readonly tree: string;
  readonly manifest: ImageManifest;
}

export interface BuildOptions {
  readonly variant: ImageVariant;
  /** Name of one of the project's recipes, or a recipe's folder. Default: `cloud`. */
  readonly recipe?: string;
  /** An image of the same variant from the same sources, whose recipe has the same root: that root file system is not built again. */
  readonly base?: Image;
  /** Sign the kernel image, for machines whose firmware verifies what it starts; `vars.fd` beside it is such a machine's flash. */
  readonly secureBoot?: SecureBootKeys;
  /** Where the image goes; created. */
  readonly outDirectory: string;
  /** Downloads and unpacked packages, shared by builds; may be empty or gone at any time. */
  readonly cacheDirectory: string;
  /** Called with one short phrase as each step starts. */
  readonly onStep?: (step: string) => void;
}

/** What manifest.json holds: the manifest, and digests of what the image and its root were made from. */
interface Stored {
  readonly stamp: string;
  readonly rootStamp: string;
  readonly bundled: readonly string[];
  readonly manifest: ImageManifest;
}

/**
 * Build the measured VM's three files: ESP, root and UKI. Needs no privilege. Returns at once when sources, recipe, lock and
 * tools are those of the image that is there; waits for another build in that folder. Equal inputs give equal bytes, whatever the
 * folder, umask, time zone and locale. Throws {@link ImageError} when a tool, a package or a source file is missing, or the recipe is not as IMAGES.md says.
 */
export async function buildImage(options: BuildOptions): Promise<Image> {
  const { outDirectory, onStep } = options;
  const recipe = await readRecipe(options.recipe);
  await makeDirectory(outDirectory);
  const waiting = () => onStep?.("another build of it");
  return exclusively(outDirectory, () => buildAlone(options, recipe), waiting);
}

async function buildAlone(options: BuildOptions, recipe: Recipe): Promise<Image> {
  const { variant, outDirectory, cacheDirectory } = options;
  const tools = await toolVersions();
  const rootStamp = await rootDigest(variant, recipe, tools);
  const { secureBoot = null } = options;
  const stamp = imageDigest(rootStamp, recipe, secureBoot);
  const known = await openStored(outDirectory);
  if (known?.stamp === stamp) return imageAt(outDirectory, known.manifest);

  const step = options.onStep ?? (() => undefined);
  await makeDirectory(cacheDirectory);
  await rm(join(outDirectory, MANIFEST), { force: true });
  step("packages");
  const set = await fetchPackages(cacheDirectory, await recipeLock(recipe));
  step("root file system");
  const { base } = options;
  const built = await (base === undefined ? buildRoot(options, recipe, set) : takeRoot(base, rootStamp, options));
  step("kernel image");
  const commandLine = kernelCommandLine(variant, recipe, built.verity);
  const init = await readFile(join(nativeOf(options), "init"));
  const order = { variant, recipe, set, commandLine, outDirectory, secureBoot };
  const initrd = await buildKernelImage({ ...order, init, cacheDirectory });
  const manifest = await describeImage({ ...order, tools, ...built, initrd });
  if (secureBoot !== null) await writeFirmwareVariables(secureBoot, join(outDirectory, VARIABLES));
  const stored: Stored = { stamp, rootStamp, bundled: built.bundled, manifest };
  await writeFile(join(outDirectory, SBOM_NAME), `${JSON.stringify(imageSbom(manifest, set), null, 2)}\n`);
  const partial = join(outDirectory, `${MANIFEST}.new`);
  await writeFile(partial, `${JSON.stringify(stored, null, 2)}\n`);
  await rename(partial, join(outDirectory, MANIFEST));
  return imageAt(outDirectory, manifest);
}

async function writeFirmwareVariables(keys: SecureBootKeys, path: string): Promise<void> {
  const template = new Uint8Array(await readFile(findFirmware({ secureBoot: true }).vars));
  await writeFile(path, writeVariables(template, secureBootVariables(keys)));
}

/** The stand-in HSM's library and configuration from the locked packages; see {@link softhsmModule}. */
export async function softhsmFiles(cacheDirectory: string): Promise<readonly ImageFile[]> {
  const set = await fetchPackages(cacheDirectory, await readLock(["module"]));
  return softhsmModule(await unpackPackages(set, ["module"], cacheDirectory));
}

interface BuiltRoot {
  /** The command line's word for it. */
  readonly verity: string;
  readonly root: Inventory;
  /** npm packages in the bundles. */
  readonly bundled: readonly string[];
}

async function buildRoot(options: BuildOptions, recipe: Recipe, set: PackageSet): Promise<BuiltRoot> {
  const { variant, outDirectory, cacheDirectory } = options;
  const sysroot = await unpackPackages(set, ["guest", "sysroot"], cacheDirectory);
  const nativeDirectory = nativeOf(options);
  const digest = digestOfPackages(set, ["guest", "sysroot"]);
  await buildNative({ directory: nativeDirectory, sysroot: { path: sysroot, digest } }, NATIVE_PARTS);
  const tree = join(outDirectory, "tree");
  const node = join(outDirectory, "node.stripped");
  await stripNode(node);
  const guestTree = await unpackPackages(set, ["guest", "dev", "recipe"], cacheDirectory);
  const agent = await bundleWithPackages(join(project, "agent/main.ts"));
  const workload = await bundleWithPackages(
    join(project, "vm-images/workload", isTrial(variant) ? "trial.ts" : "main.ts"),
  );
  const entries = await rootEntries({
    ...{ variant, recipe, nativeDirectory, node, guestTree },
    ...{ agentBundle: agent.bytes, workloadBundle: workload.bytes },
    profiles: compiledProfiles(),
    stateTemplate: await stateTemplate(),
  });
  await writeRoot(entries, tree);
  const verity = await buildVerityRoot(tree, join(outDirectory, "root.img"));
  await rm(node, { force: true });
  const origins = await rootOrigins(entries, { set, guestTree, node, recipeFolder: recipe.folder });
  const signs = entries.some(({ path }) => path === WORKLOAD);
  return {
    verity: verityArgument(verity),
    root: await inventoryOf(tree, origins),
    bundled: [...new Set([...agent.packages, ...(signs ? workload.packages : [])])].sort(),
  };
}

/** The root of another image under this one's name. Throws {@link ImageError} when that image's is not of the same inputs. */
async function takeRoot(base: Image, rootStamp: string, { outDirectory }: BuildOptions): Promise<BuiltRoot> {
  const current = await openStored(base.directory);
  if (current?.rootStamp !== rootStamp)
    throw new ImageError("ERR_IMAGE_SOURCE", `image ${base.directory}`, {
      expected: "a root of this variant and recipe, built from these sources",
      got: "another",
    });
  const place = async (name: string, put: (from: string, to: string) => Promise<void>): Promise<void> => {
    await rm(join(outDirectory, name), { recursive: true, force: true });
    await put(join(base.directory, name), join(outDirectory, name));
  };
  await place("root.img", (from, to) => link(from, to).catch(() => copyFile(from, to)));
  for (const name of ["tree", "native"]) await place(name, (from, to) => symlink(relative(outDirectory, from), to));
  const argument = /(?:^| )(verity=\S+)/.exec(current.manifest.commandLine)?.[1];
  if (argument === undefined) throw new ImageError("ERR_IMAGE_SOURCE", `image ${base.directory}: no root hash`);
  return { verity: argument, root: current.manifest.root, bundled: current.bundled };
}

const nativeOf = ({ outDirectory }: BuildOptions): string => join(outDirectory, "native");

/** The image of an earlier build, if its files are what its manifest says. */
async function openStored(directory: string): Promise<Stored | undefined> {
  const path = join(directory, MANIFEST);
  if (!(await exists(path)) || !(await exists(join(directory, "tree")))) return undefined;
  const stored = JSON.parse(await readFile(path, "utf8")) as Stored;
  for (const [name, hash] of Object.entries(stored.manifest.files)) {
    const file = join(directory, name);
    if (!(await exists(file)) || (await sha256File(file)) !== hash) return undefined;
  }
  return stored;
}

function imageAt(directory: string, manifest: ImageManifest): Image {
  const file = (name: string): string => join(directory, name);
  return {
    directory,
    esp: file("esp.img"),
    root: file("root.img"),
    uki: file("uki.efi"),
    tree: file("tree"),
    manifest,
    ...(manifest.secureBoot === null
      ? {}
      : { firmware: { ...findFirmware({ secureBoot: true }), vars: file(VARIABLES) } }),
  };
}
