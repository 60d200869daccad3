import { rm, truncate, utimes, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { ImageFile } from "./files.ts";
import { withScratch } from "./scratch.ts";
import { runTool, SOURCE_DATE_EPOCH } from "./tool.ts";

const MIB = 1024 * 1024;
/** Fixed FAT volume serial number. */
const VOLUME_ID = "13c1a001";

/**
 * An EFI system partition image without partition table that holds `first` as EFI/BOOT/BOOTX64.EFI, where firmware looks
 * on removable media: a kernel image, or a boot loader with what it reads beside it.
 * FAT16: mtools cannot handle a FAT32 this small. Equal bytes in, equal bytes out.
 */
export async function buildEsp(first: Uint8Array, output: string, more: readonly ImageFile[] = []): Promise<void> {
  const files = [{ path: "/EFI/BOOT/BOOTX64.EFI", bytes: first }, ...more];
  const total = files.reduce((sum, { bytes }) => sum + bytes.length, 0);
  await withScratch("ironclaw-esp-", async (directory) => {
    await rm(output, { force: true });
    await writeFile(output, "");
    await truncate(output, (Math.ceil(total / MIB) + 8) * MIB);
    await runTool("mkfs.vfat", ["-F", "16", "--invariant", "-i", VOLUME_ID, "-n", "ESP", output]);
    const places = new Set(files.flatMap(({ path }) => parentsOf(path)));
    await runTool("mmd", ["-i", output, ...[...places].map((place) => `::${place}`)]);
    const scratch = join(directory, "file");
    for (const { path, bytes } of files) {
      await writeFile(scratch, bytes);
      await utimes(scratch, SOURCE_DATE_EPOCH, SOURCE_DATE_EPOCH);
      await runTool("mcopy", ["-m", "-i", output, scratch, `::${path}`]);
    }
  });
}

/** Its folders, the outer ones first. */
function parentsOf(path: string): readonly string[] {
  const parent = dirname(path);
  return parent === "/" ? [] : [...parentsOf(parent), parent];
}
