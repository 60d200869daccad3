import { join, resolve } from "node:path";
import { digestFiles, listFiles, sha256Hex } from "./digest.ts";
import { readOwnLock } from "./lock.ts";
import { RECIPE_NAMES, type Recipe, rootPartOf } from "./recipes.ts";
import type { SecureBootKeys } from "./secure-boot.ts";
import { runTool } from "./tool.ts";
import type { ImageVariant } from "./variants.ts";

const project = resolve(import.meta.dirname, "..");
const SOURCE_FOLDERS = ["policy", "attest", "seal", "agent", "vm-images"];
/** What only ever runs on a host: a change there leaves the image as it is. */
const HOST_ONLY =
  /^(agent\/(cli|docs)\/|attest\/(service|page|library)\/|vm-images\/(story|token|host)\/|vm-images\/(qemu|qemu-args|qmp|running|acceleration|machine-devices|machine-folder|swtpm|listening|pin-scan|line-client|control-client|start|enrol|pin-module|guest-tree|built-image|installed-system|debian-package)\.ts$|(agent\/p11kit\/deploy|vm-images\/debian)\/)|\.md$/;

/** Debian packages of the tools that write an image's bytes and whose versions no lock file holds. */
const TOOL_PACKAGES = [
  ...["binutils", "cryptsetup-bin", "dosfstools", "e2fsprogs", "erofs-utils", "g++-12", "gcc-12", "mtools"],
];

export type ToolVersions = Readonly<Record<string, string>>;

export async function toolVersions(): Promise<ToolVersions> {
  const lines = (await runTool("dpkg-query", ["--show", ...TOOL_PACKAGES])).trim().split("\n");
  const versions = lines.map((line) => line.split("\t") as [string, string]);
  return { ...Object.fromEntries(versions), node: process.version };
}

/** One digest over all that a root file system depends on and this project or the recipe controls. */
export async function rootDigest(variant: ImageVariant, recipe: Recipe, tools: ToolVersions): Promise<string> {
  const sources = await Promise.all(
    SOURCE_FOLDERS.map(async (folder) =>
      (await listFiles(join(project, folder), () => true)).map((path) => join(folder, path)),
    ),
  );
  const ofRecipe = (path: string) => RECIPE_NAMES.some((name) => path.startsWith(`vm-images/${name}/`));
  const inputs = sources.flat().filter((path) => !HOST_ONLY.test(path) && !ofRecipe(path));
  const own = (await listFiles(recipe.folder, () => true)).filter((path) => path.startsWith("root/"));
  return sha256Hex(
    [
      ...[variant, JSON.stringify(tools), JSON.stringify(rootPartOf(recipe, variant))],
      await digestFiles(project, [...inputs, "package-lock.json"]),
      await digestFiles(recipe.folder, own),
      JSON.stringify(await readOwnLock(recipe)),
    ].join("\n"),
  );
}

/** The same over all that an image depends on. */
export function imageDigest(root: string, recipe: Recipe, secureBoot: SecureBootKeys | null): string {
  const { name, kernel, modules, commandLine } = recipe;
  const signer = secureBoot === null ? null : Object.values(secureBoot.certificates).map(sha256Hex);
  return sha256Hex([root, JSON.stringify({ name, kernel, modules, commandLine, signer })].join("\n"));
}
