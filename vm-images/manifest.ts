import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type BootPcrValues, predictBootPcrs } from "../attest/index.ts";
import { sha256File, sha256Hex } from "./digest.ts";
import type { ToolVersions } from "./inputs.ts";
import type { PackageSet } from "./packages.ts";
import { type Recipe, rootPartOf } from "./recipes.ts";
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
  /** File name -> SHA-256. */
  readonly files: Readonly<Record<"esp.img" | "root.img" | "uki.efi", string>>;
  /** The programs that it starts when serving begins, each with the port that its machine has to have. */
  readonly workloads: readonly { readonly name: string; readonly uid: number; readonly port: string | null }[];
  /** Package -> version. */
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
}

/** What was built, from the files themselves. */
export async function describeImage(inputs: ManifestInputs): Promise<ImageManifest> {
  const { variant, recipe, outDirectory, set, commandLine, tools } = inputs;
  const digest = (name: string): Promise<string> => sha256File(join(outDirectory, name));
  const files = {
    "esp.img": await digest("esp.img"),
    "root.img": await digest("root.img"),
    "uki.efi": await digest("uki.efi"),
  };
  const lines = Object.entries(files).map(([name, hash]) => `${hash}  ${name}\n`);
  return {
    ...{ id: sha256Hex(lines.join("")), variant, recipe: recipe.name, unlocked: set.unlocked, commandLine },
    prediction: predictBootPcrs({ uki: await readFile(join(outDirectory, "uki.efi")) }),
    files,
    workloads: rootPartOf(recipe, variant).workloads.map(({ name, uid, port }) => ({ name, uid, port })),
    packages: Object.fromEntries(set.packages.map(({ name, version }) => [name, version])),
    tools,
  };
}
