import { readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ByteWriter, utf8 } from "../policy/index.ts";
import { withScratch } from "./scratch.ts";
import { runTool, SOURCE_DATE_EPOCH } from "./tool.ts";

const BLOCK = 4096;
/** Bytes of the state volume; agent/spawner/state_format.h says the same. */
export const STATE_VOLUME_BYTES = 64 * 1024 * 1024;
/** Fixed, as everything about the template: what tells two volumes apart is the id that the spawner gives them. */
const UUID = "1f0c1a00-0000-4000-8000-0000000057a7";
/** What makes it an ext4. No checksums of its own: below lie tags that nobody can forge. */
const FEATURES =
  "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize";

/** The blocks of an image that are not all zero (README, "The state volume's template"). */
export function encodeTemplate(image: Uint8Array): Uint8Array {
  const zeros = new Uint8Array(BLOCK);
  const blocks = Array.from({ length: image.length / BLOCK }, (_, index) => ({
    index,
    bytes: image.subarray(index * BLOCK, (index + 1) * BLOCK),
  })).filter(({ bytes }) => Buffer.compare(bytes, zeros) !== 0);
  const writer = new ByteWriter()
    .bytes(utf8("IRONTMPL"))
    .u32(image.length / BLOCK)
    .u32(blocks.length);
  for (const { index, bytes } of blocks) writer.u32(index).bytes(bytes);
  return writer.finish();
}

/** An empty ext4 of {@link STATE_VOLUME_BYTES}, made by mke2fs, as a template. Equal bytes on every day. */
export function stateTemplate(): Promise<Uint8Array> {
  return withScratch("ironclaw-state-", async (directory) => {
    const image = join(directory, "volume");
    await writeFile(image, "");
    await truncate(image, STATE_VOLUME_BYTES);
    const sizes = ["-b", String(BLOCK), "-I", "256", "-N", "16384", "-m", "0"];
    // Nothing is left for the kernel to initialise later.
    const settings = `hash_seed=${UUID},lazy_itable_init=0,lazy_journal_init=0,nodiscard`;
    await runTool("mke2fs", ["-q", "-F", ...sizes, "-O", FEATURES, "-U", UUID, "-E", settings, image], {
      // Not this machine's defaults. mke2fs before 1.47.1 knows no SOURCE_DATE_EPOCH.
      environment: { MKE2FS_CONFIG: "/dev/null", E2FSPROGS_FAKE_TIME: String(SOURCE_DATE_EPOCH) },
    });
    return encodeTemplate(await readFile(image));
  });
}
