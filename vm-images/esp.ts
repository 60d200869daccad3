import { rm, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { withScratch } from "./scratch.ts";
import { runTool, SOURCE_DATE_EPOCH } from "./tool.ts";

const MIB = 1024 * 1024;
/** Fixed FAT volume serial number. */
const VOLUME_ID = "13c1a001";

/**
 * An EFI system partition image without partition table that holds `uki` as EFI/BOOT/BOOTX64.EFI, where firmware looks
 * on removable media. FAT16: mtools cannot handle a FAT32 this small. Equal bytes in, equal bytes out.
 */
export async function buildEsp(uki: Uint8Array, output: string): Promise<void> {
  await withScratch("ironclaw-esp-", async (directory) => {
    const file = join(directory, "BOOTX64.EFI");
    await writeFile(file, uki);
    await utimes(file, SOURCE_DATE_EPOCH, SOURCE_DATE_EPOCH);
    await rm(output, { force: true });
    await writeFile(output, "");
    await truncate(output, (Math.ceil(uki.length / MIB) + 8) * MIB);
    await runTool("mkfs.vfat", ["-F", "16", "--invariant", "-i", VOLUME_ID, "-n", "ESP", output]);
    await runTool("mmd", ["-i", output, "::/EFI", "::/EFI/BOOT"]);
    await runTool("mcopy", ["-m", "-i", output, file, "::/EFI/BOOT/BOOTX64.EFI"]);
  });
}
