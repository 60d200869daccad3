import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type BootPhase, bootPhases } from "../attest/index.ts";
import type { BuiltImage } from "./built-image.ts";
import { digestFiles, listFiles, sha256Hex } from "./digest.ts";
import { ImageError } from "./errors.ts";
import { GuestTree, requireGuestFile } from "./guest-tree.ts";
import { PROGRAMS } from "./pin-module.ts";

/** What a release says about a system that the package is installed on. */
export interface InstalledSystem extends Omit<BuiltImage, "variant" | "secureBoot"> {
  readonly variant: "installed";
  readonly phases: readonly BootPhase[];
}

export interface InstalledPlaces {
  /** The system's root, `/` on the machine itself. */
  readonly root: string;
  /** The unified kernel image that its firmware starts. */
  readonly uki: string;
  readonly phases: readonly BootPhase[];
}

const CONFIG = "/etc/ironclaw/agent.json";

/**
 * The id is over the kernel image and over what the package brought: it names a system, as an image's names an image. Nothing measures
 * these files at a boot but the kernel image, the configuration and the shim.
 * @throws ImageError ERR_IMAGE_SOURCE when a file is missing
 */
export async function readInstalledSystem({ root, uki, phases }: InstalledPlaces): Promise<InstalledSystem> {
  const tree = new GuestTree(root, []);
  if (tree.readFile(CONFIG) === null) {
    const hint = "agent/docs/install.md: the package has to be installed in the system whose root this is";
    throw new ImageError("ERR_IMAGE_SOURCE", `${CONFIG} below ${root}`, { expected: "a file", got: "none", hint });
  }
  const config = requireGuestFile(tree, CONFIG);
  const shim = requireGuestFile(tree, `${PROGRAMS}/shim`);
  const kernel = await readFile(uki).catch((cause: unknown) => {
    throw new ImageError("ERR_IMAGE_SOURCE", `kernel image ${uki}`, { expected: "a file", got: "none", cause });
  });
  const programs = join(root, PROGRAMS);
  const parts = [
    sha256Hex(kernel),
    sha256Hex(config),
    await digestFiles(programs, await listFiles(programs, () => true)),
  ];
  return {
    ...{ id: sha256Hex(parts.join("\n")), variant: "installed", phases },
    ...{ uki: new Uint8Array(kernel), config, shim, treeDirectory: root },
  };
}

/** `null` for words that are none, or not in their order. */
export function readPhases(list: string): readonly BootPhase[] | null {
  const words = list === "" ? [] : list.split(",");
  const found = bootPhases.filter((phase) => words.includes(phase));
  return found.length === words.length && found.every((phase, index) => phase === words[index]) ? found : null;
}
