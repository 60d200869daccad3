import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { type BootPcrValues, type PcrBank, predictBootPcrs } from "../attest/index.ts";
import { sha256File, sha256Hex } from "./digest.ts";
import type { ToolVersions } from "./inputs.ts";
import { type Exposure, exposureOf, type Inventory, type InventoryFile } from "./inventory.ts";
import { type NpmPackage, npmPackages, projectVersion } from "./npm-lock.ts";
import type { PackageSet } from "./packages.ts";
import { type Recipe, rootPartOf } from "./recipes.ts";
import { predictSecureBoot, type SecureBootKeys } from "./secure-boot.ts";
import type { ImageVariant } from "./variants.ts";

export interface ImageManifest {
  /** SHA-256 over the digests of the three files: the same image has the same id wherever it was built. */
  readonly id: string;
  readonly variant: ImageVariant;
  /** The recipe folder's name. */
  readonly recipe: string;
  /** True when a locked package was gone and another version is in the image. */
  readonly unlocked: boolean;
  readonly commandLine: string;
  /** PCR 4, 9, 11 and 12 after this image has started, computed from its bytes. */
  readonly prediction: BootPcrValues;
  /** For an image that is signed: PCR 7 of a machine whose firmware has these keys in its variables, `vars.fd`. */
  readonly secureBoot: { readonly certificate: string; readonly pcr7: Readonly<Record<PcrBank, string>> } | null;
  /** File name -> SHA-256. */
  readonly files: Readonly<Record<"esp.img" | "root.img" | "uki.efi", string>>;
  /** The programs that it starts when serving begins, each with the port that its machine has to have. */
  readonly workloads: readonly { readonly name: string; readonly uid: number; readonly port: string | null }[];
  /** Bytes of each of these files. */
  readonly sizes: Readonly<Record<"esp.img" | "root.img" | "uki.efi", number>>;
  /** Every file and link of the root, and every file of the initrd, whose modules stand in the order in which they are loaded. */
  readonly root: Inventory;
  readonly initrd: readonly InventoryFile[];
  /** Both empty. */
  readonly exposure: Exposure;
  /** Debian packages of which a file is in the root, the initrd or the UKI, sorted. */
  readonly shipped: readonly string[];
  /** npm packages of which a file is in the root, or a part of a bundle. */
  readonly npm: readonly NpmPackage[];
  /** The project's own version. */
  readonly project: string;
  /** Package -> version: all that decided the bytes, headers too. */
  readonly packages: Readonly<Record<string, string>>;
  /** Build tool -> its own version line. */
  readonly tools: ToolVersions;
}

export interface ManifestInputs {
  readonly variant: ImageVariant;
  readonly recipe: Recipe;
  readonly outDirectory: string;
  readonly set: PackageSet;
  readonly commandLine: string;
  readonly tools: ToolVersions;
  readonly root: Inventory;
  readonly initrd: readonly InventoryFile[];
  /** npm packages in the bundles. */
  readonly bundled: readonly string[];
  readonly secureBoot: SecureBootKeys | null;
}

/** What was built, from the files themselves. */
export async function describeImage(inputs: ManifestInputs): Promise<ImageManifest> {
  const { variant, recipe, outDirectory, set, commandLine, tools, root, initrd, secureBoot } = inputs;
  const digest = (name: string): Promise<string> => sha256File(join(outDirectory, name));
  const size = async (name: string): Promise<number> => (await stat(join(outDirectory, name))).size;
  const files = {
    "esp.img": await digest("esp.img"),
    "root.img": await digest("root.img"),
    "uki.efi": await digest("uki.efi"),
  };
  const lines = Object.entries(files).map(([name, hash]) => `${hash}  ${name}\n`);
  return {
    ...{ id: sha256Hex(lines.join("")), variant, recipe: recipe.name, unlocked: set.unlocked, commandLine },
    prediction: predictBootPcrs({
      uki: await readFile(join(outDirectory, "uki.efi")),
      secureBoot: secureBoot !== null,
    }),
    secureBoot:
      secureBoot === null
        ? null
        : { certificate: sha256Hex(secureBoot.certificates.db), pcr7: predictSecureBoot(secureBoot) },
    files,
    sizes: { "esp.img": await size("esp.img"), "root.img": await size("root.img"), "uki.efi": await size("uki.efi") },
    ...{ root, initrd, shipped: shippedPackages(inputs) },
    exposure: await exposureOf(join(outDirectory, "tree")),
    npm: await npmPackages(npmNames(inputs)),
    project: await projectVersion(),
    workloads: rootPartOf(recipe, variant).workloads.map(({ name, uid, port }) => ({ name, uid, port })),
    packages: Object.fromEntries(set.packages.map(({ name, version }) => [name, version])),
    tools,
  };
}

const originsOf = ({ root, initrd }: ManifestInputs): ReadonlySet<string> =>
  new Set([...root.files, ...initrd].map(({ from }) => from));

function shippedPackages(inputs: ManifestInputs): readonly string[] {
  const origins = originsOf(inputs);
  const shipped = inputs.set.packages.filter(
    ({ group, name }) => group === "stub" || group === "kernel" || origins.has(`deb ${name}`),
  );
  return shipped.map(({ name }) => name).sort();
}

function npmNames(inputs: ManifestInputs): readonly string[] {
  const installed = [...originsOf(inputs)].flatMap((from) => (from.startsWith("npm ") ? [from.slice(4)] : []));
  return [...new Set([...inputs.bundled, ...installed])].sort();
}
