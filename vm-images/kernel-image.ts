import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { listFiles } from "./digest.ts";
import { ImageError } from "./errors.ts";
import { buildEsp } from "./esp.ts";
import { encodeInitrd, kernelModules } from "./initrd.ts";
import { type InventoryFile, initrdInventory } from "./inventory.ts";
import type { PackageSet } from "./packages.ts";
import type { Recipe } from "./recipes.ts";
import { type SecureBootKeys, signUki } from "./secure-boot.ts";
import { buildUki } from "./uki.ts";
import { unpackPackages } from "./unpack.ts";
import type { ImageVariant } from "./variants.ts";

/**
 * What every kernel of a virtual machine is told. Without `no_timer_check` it waits at its start for ticks of the timer, and panics when an emulated
 * machine whose host is busy has not got them by then ("IO-APIC + timer doesn't work!").
 */
export const MACHINE_WORDS = ["console=ttyS0", "loglevel=4", "panic=-1", "no_timer_check"] as const;

/** @param verity the word that names the root */
export function kernelCommandLine(variant: ImageVariant, recipe: Recipe, verity: string): string {
  // Lockdown also keeps root from reading memory, which the dev variant exists for.
  const hardening = variant === "dev" ? [] : ["lockdown=confidentiality"];
  return [
    ...MACHINE_WORDS,
    ...hardening,
    ...recipe.commandLine,
    ...["init_on_free=1", `ironclaw.variant=${variant}`, verity],
  ].join(" ");
}

export interface KernelImageOrder {
  readonly variant: ImageVariant;
  readonly recipe: Recipe;
  readonly set: PackageSet;
  readonly commandLine: string;
  /** The initrd's program. */
  readonly init: Uint8Array;
  readonly outDirectory: string;
  readonly cacheDirectory: string;
  readonly secureBoot: SecureBootKeys | null;
}

/** Writes `uki.efi`, signed where there are keys, and `esp.img` with it. Returns what is in the initrd. */
export async function buildKernelImage(order: KernelImageOrder): Promise<readonly InventoryFile[]> {
  const { outDirectory, cacheDirectory, variant, recipe, set, commandLine, init } = order;
  const kernelTree = await unpackPackages(set, ["kernel"], cacheDirectory);
  const stubTree = await unpackPackages(set, ["stub"], cacheDirectory);
  const [kernelFile] = await listFiles(join(kernelTree, "boot"), (name) => name.startsWith("vmlinuz-"));
  if (kernelFile === undefined) throw new ImageError("ERR_IMAGE_SOURCE", "kernel package: no boot/vmlinuz-*");
  const modules = await kernelModules(kernelTree, recipe.modules);
  const unsigned = await buildUki({
    stub: await readFile(join(stubTree, "usr/lib/systemd/boot/efi/linuxx64.efi.stub")),
    osRelease: `ID=ironclaw\nNAME=IronClaw\nVARIANT_ID=${variant}\n`,
    commandLine,
    release: kernelFile.replace("vmlinuz-", ""),
    kernel: await readFile(join(kernelTree, "boot", kernelFile)),
    initrd: encodeInitrd(init, modules),
  });
  const uki = order.secureBoot === null ? unsigned : await signUki(unsigned, order.secureBoot);
  await writeFile(join(outDirectory, "uki.efi"), uki);
  await buildEsp(uki, join(outDirectory, "esp.img"));
  const kernel = set.packages.find(({ group }) => group === "kernel")?.name ?? "";
  return initrdInventory(init, modules, kernel);
}
