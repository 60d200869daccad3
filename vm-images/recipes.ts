import type { KernelGroup } from "./packages.ts";

/**
 * Which kernel an image has; the root file system is the same for all.
 * `cloud`: Debian's kernel for virtual machines, which has no USB at all. `usb`: Debian's general kernel, for a token on USB.
 * `cloud-6.1`: the kernel of Debian bookworm itself, whose Landlock confines less.
 */
export const RECIPE_NAMES = ["cloud", "usb", "cloud-6.1"] as const;

export type RecipeName = (typeof RECIPE_NAMES)[number];

export interface Recipe {
  /** The group of the package lock that holds the kernel. */
  readonly kernel: KernelGroup;
  /** Modules that the initrd loads besides those that every image needs; what they depend on is added. */
  readonly modules: readonly string[];
  /** Words of the measured command line besides every image's. */
  readonly commandLine: readonly string[];
}

export const DEFAULT_RECIPE: RecipeName = "cloud";

export const RECIPES: Readonly<Record<RecipeName, Recipe>> = {
  cloud: { kernel: "kernel", modules: [], commandLine: [] },
  // A device that was plugged in is named by the kernel and otherwise left alone until the spawner admits it: no driver, no
  // configuration. Of the controllers only xHCI, which speaks every speed.
  usb: { kernel: "kernel-usb", modules: ["xhci-pci"], commandLine: ["usbcore.authorized_default=0"] },
  "cloud-6.1": { kernel: "kernel-6.1", modules: [], commandLine: [] },
};
