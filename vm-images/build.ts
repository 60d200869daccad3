import { copyFile, link, mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join, relative, resolve } from "node:path";
import { type BootPcrValues, predictBootPcrs } from "../attest/index.ts";
import { bundleProgram } from "./bundle.ts";
import { digestFiles, listFiles, sha256File, sha256Hex } from "./digest.ts";
import { ImageError } from "./errors.ts";
import { buildEsp } from "./esp.ts";
import type { ImageFile } from "./files.ts";
import { encodeInitrd, kernelModules } from "./initrd.ts";
import { buildNative, NATIVE_PARTS } from "./native.ts";
import { stripNode } from "./node.ts";
import { fetchPackages, type PackageSet, readLock } from "./packages.ts";
import { compiledProfiles } from "./profiles.ts";
import { DEFAULT_RECIPE, RECIPES, type RecipeName } from "./recipes.ts";
import { type ImageVariant, rootEntries, softhsmModule, writeRoot } from "./rootfs.ts";
import { stateTemplate } from "./state-template.ts";
import { runTool } from "./tool.ts";
import { buildUki } from "./uki.ts";
import { exists, unpackPackages } from "./unpack.ts";
import { buildVerityRoot, verityArgument } from "./verity.ts";

const project = resolve(import.meta.dirname, "..");
const SOURCE_FOLDERS = ["policy", "attest", "seal", "agent", "vm-images"];
/** What only ever runs on a host: a change there leaves the image as it is. */
const HOST_ONLY =
  /^(agent\/(cli|docs)\/|attest\/(service|page|library)\/|vm-images\/(story|token)\/|vm-images\/(qemu|qemu-args|qmp|swtpm|listening|pin-scan|line-client|control-client|start|enrol|pin-module|guest-tree|built-image|installed-system|debian-package)\.ts$|(agent\/p11kit\/deploy|vm-images\/debian)\/)|\.md$/;

export interface ImageManifest {
  /** SHA-256 over the digests of the three files: the same image has the same id wherever it was built. */
  readonly id: string;
  readonly variant: ImageVariant;
  readonly recipe: RecipeName;
  /** True when a locked package was gone and another version is in the image. */
  readonly unlocked: boolean;
  readonly commandLine: string;
  /** PCR 4, 9, 11 and 12 after this image has started, computed from its bytes. */
  readonly prediction: BootPcrValues;
  /** File name -> SHA-256. */
  readonly files: Readonly<Record<"esp.img" | "root.img" | "uki.efi", string>>;
  /** Package -> version. */
  readonly packages: Readonly<Record<string, string>>;
  /** Build tool -> its own version line. */
  readonly tools: Readonly<Record<string, string>>;
}

export interface Image {
  readonly directory: string;
  readonly esp: string;
  readonly root: string;
  readonly uki: string;
  /** Folder with the root file system's names and contents: what to pin without mounting anything. */
  readonly tree: string;
  readonly manifest: ImageManifest;
}

export interface BuildOptions {
  readonly variant: ImageVariant;
  /** Default: `cloud`. */
  readonly recipe?: RecipeName;
  /** An image of the same variant from the same sources: its root file system, which no recipe changes, is not built again. */
  readonly base?: Image;
  /** Where the image goes; created. */
  readonly outDirectory: string;
  /** Downloads and unpacked packages, shared by builds; may be empty or gone at any time. */
  readonly cacheDirectory: string;
  /** Called with one short phrase as each step starts. */
  readonly onStep?: (step: string) => void;
}

/**
 * Build the measured VM's three files: ESP, root and UKI. Needs no privilege. Returns at once when sources, lock and
 * tools are those of the image that is there. Equal inputs give equal bytes, whatever the folder, umask, time zone and
 * locale. Throws {@link ImageError} when a tool, a package or a source file is missing.
 */
export async function buildImage(options: BuildOptions): Promise<Image> {
  const { variant, outDirectory } = options;
  const recipe = options.recipe ?? DEFAULT_RECIPE;
  const tools = await toolVersions();
  const stamp = await inputDigest(variant, recipe, tools);
  const known = await openImage(outDirectory, stamp);
  if (known !== undefined) return known;

  const step = options.onStep ?? (() => undefined);
  await mkdir(outDirectory, { recursive: true });
  await rm(join(outDirectory, "manifest.json"), { force: true });
  step("packages");
  const set = await fetchPackages(options.cacheDirectory, await readLock(RECIPES[recipe].kernel));
  step("root file system");
  const verity = await (options.base === undefined
    ? buildRoot(options, set)
    : takeRoot(options.base, await inputDigest(variant, options.base.manifest.recipe, tools), options));
  step("kernel image");
  const commandLine = kernelCommandLine(variant, recipe, verity);
  await buildBoot({ ...options, recipe }, set, commandLine);
  const manifest = await describeImage({
    variant,
    recipe,
    outDirectory,
    set,
    commandLine,
    tools,
  });
  await writeFile(join(outDirectory, "manifest.json"), `${JSON.stringify({ stamp, manifest }, null, 2)}\n`);
  return imageAt(outDirectory, manifest);
}

/** The stand-in HSM's library and configuration from the locked packages; see {@link softhsmModule}. */
export async function softhsmFiles(cacheDirectory: string): Promise<readonly ImageFile[]> {
  const set = await fetchPackages(cacheDirectory, await readLock());
  return softhsmModule(await unpackPackages(set, ["module"], cacheDirectory));
}

/** Returns the command line's word for it. */
async function buildRoot(options: BuildOptions, set: PackageSet): Promise<string> {
  const { variant, outDirectory, cacheDirectory } = options;
  const sysroot = await unpackPackages(set, ["guest", "sysroot"], cacheDirectory);
  const guestTree = await unpackPackages(set, ["guest"], cacheDirectory);
  const nativeDirectory = nativeOf(options);
  await buildNative(
    {
      directory: nativeDirectory,
      sysroot: { path: sysroot, digest: set.digest },
    },
    NATIVE_PARTS,
  );
  const tree = join(outDirectory, "tree");
  const node = join(outDirectory, "node.stripped");
  await stripNode(node);
  const entries = await rootEntries({
    variant,
    guestTree,
    nativeDirectory,
    node,
    agentBundle: await bundleProgram(join(project, "agent/main.ts")),
    workloadBundle: await bundleProgram(join(project, "vm-images/workload/main.ts")),
    profiles: compiledProfiles(),
    stateTemplate: await stateTemplate(),
  });
  await writeRoot(entries, tree);
  const verity = await buildVerityRoot(tree, join(outDirectory, "root.img"));
  await rm(node, { force: true });
  return verityArgument(verity);
}

/** The root of another image under this one's name. Throws {@link ImageError} when that image is not of the same inputs. */
async function takeRoot(base: Image, stamp: string, { variant, outDirectory }: BuildOptions): Promise<string> {
  const current = await openImage(base.directory, stamp);
  if (current?.manifest.variant !== variant)
    throw new ImageError("ERR_IMAGE_SOURCE", `image ${base.directory}`, {
      expected: `${variant}, built from these sources`,
      got: "another image",
    });
  const place = async (name: string, put: (from: string, to: string) => Promise<void>): Promise<void> => {
    await rm(join(outDirectory, name), { recursive: true, force: true });
    await put(join(base.directory, name), join(outDirectory, name));
  };
  await place("root.img", (from, to) => link(from, to).catch(() => copyFile(from, to)));
  for (const name of ["tree", "native"]) await place(name, (from, to) => symlink(relative(outDirectory, from), to));
  const argument = /(?:^| )(verity=\S+)/.exec(current.manifest.commandLine)?.[1];
  if (argument === undefined) throw new ImageError("ERR_IMAGE_SOURCE", `image ${base.directory}: no root hash`);
  return argument;
}

const nativeOf = ({ outDirectory }: BuildOptions): string => join(outDirectory, "native");

function kernelCommandLine(variant: ImageVariant, recipe: RecipeName, verity: string): string {
  // Lockdown also keeps root from reading memory, which the dev variant exists for.
  const hardening = variant === "dev" ? [] : ["lockdown=confidentiality"];
  return [
    ...["console=ttyS0", "loglevel=4", "panic=-1"],
    ...hardening,
    ...RECIPES[recipe].commandLine,
    ...["init_on_free=1", `ironclaw.variant=${variant}`, verity],
  ].join(" ");
}

async function buildBoot(
  options: BuildOptions & { readonly recipe: RecipeName },
  set: PackageSet,
  commandLine: string,
): Promise<void> {
  const { outDirectory, cacheDirectory, variant } = options;
  const recipe = RECIPES[options.recipe];
  const kernelTree = await unpackPackages(set, [recipe.kernel], cacheDirectory);
  const stubTree = await unpackPackages(set, ["stub"], cacheDirectory);
  const [kernelFile] = await listFiles(join(kernelTree, "boot"), (name) => name.startsWith("vmlinuz-"));
  if (kernelFile === undefined) throw new ImageError("ERR_IMAGE_SOURCE", "kernel package: no boot/vmlinuz-*");
  const uki = await buildUki({
    stub: await readFile(join(stubTree, "usr/lib/systemd/boot/efi/linuxx64.efi.stub")),
    osRelease: `ID=ironclaw\nNAME=IronClaw\nVARIANT_ID=${variant}\n`,
    commandLine,
    release: kernelFile.replace("vmlinuz-", ""),
    kernel: await readFile(join(kernelTree, "boot", kernelFile)),
    initrd: encodeInitrd(
      await readFile(join(nativeOf(options), "init")),
      await kernelModules(kernelTree, recipe.modules),
    ),
  });
  await writeFile(join(outDirectory, "uki.efi"), uki);
  await buildEsp(uki, join(outDirectory, "esp.img"));
}

interface ManifestInputs {
  readonly variant: ImageVariant;
  readonly recipe: RecipeName;
  readonly outDirectory: string;
  readonly set: PackageSet;
  readonly commandLine: string;
  readonly tools: Readonly<Record<string, string>>;
}

async function describeImage(inputs: ManifestInputs): Promise<ImageManifest> {
  const { variant, recipe, outDirectory, set, commandLine, tools } = inputs;
  const digest = (name: string): Promise<string> => sha256File(join(outDirectory, name));
  const files = {
    "esp.img": await digest("esp.img"),
    "root.img": await digest("root.img"),
    "uki.efi": await digest("uki.efi"),
  };
  const id = sha256Hex(
    Object.entries(files)
      .map(([name, hash]) => `${hash}  ${name}\n`)
      .join(""),
  );
  const packages = Object.fromEntries(set.packages.map(({ name, version }) => [name, version]));
  const prediction = predictBootPcrs({ uki: await readFile(join(outDirectory, "uki.efi")) });
  return {
    id,
    variant,
    recipe,
    unlocked: set.unlocked,
    commandLine,
    prediction,
    files,
    packages,
    tools,
  };
}

/** Debian packages of the tools that write an image's bytes and whose versions no lock file holds. */
const TOOL_PACKAGES = [
  ...["binutils", "cryptsetup-bin", "dosfstools", "e2fsprogs", "erofs-utils", "g++-12", "gcc-12", "mtools"],
];

async function toolVersions(): Promise<Record<string, string>> {
  const lines = (await runTool("dpkg-query", ["--show", ...TOOL_PACKAGES])).trim().split("\n");
  const versions = lines.map((line) => line.split("\t") as [string, string]);
  return { ...Object.fromEntries(versions), node: process.version };
}

/** One digest over all that an image depends on and this project controls. */
async function inputDigest(
  variant: ImageVariant,
  recipe: RecipeName,
  tools: Readonly<Record<string, string>>,
): Promise<string> {
  const sources = await Promise.all(
    SOURCE_FOLDERS.map(async (folder) =>
      (await listFiles(join(project, folder), () => true)).map((path) => join(folder, path)),
    ),
  );
  const inputs = [...sources.flat().filter((path) => !HOST_ONLY.test(path)), "package-lock.json"];
  return sha256Hex([variant, recipe, JSON.stringify(tools), await digestFiles(project, inputs)].join("\n"));
}

/** The image of an earlier build if it was made from the same inputs and its files are what its manifest says. */
async function openImage(directory: string, stamp: string): Promise<Image | undefined> {
  const path = join(directory, "manifest.json");
  if (!(await exists(path))) return undefined;
  const stored = JSON.parse(await readFile(path, "utf8")) as {
    stamp: string;
    manifest: ImageManifest;
  };
  if (stored.stamp !== stamp || !(await exists(join(directory, "tree")))) return undefined;
  for (const [name, hash] of Object.entries(stored.manifest.files)) {
    const file = join(directory, name);
    if (!(await exists(file)) || (await sha256File(file)) !== hash) return undefined;
  }
  return imageAt(directory, stored.manifest);
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
  };
}
