import { appendFile, readFile, rm, stat, truncate } from "node:fs/promises";
import { ImageError } from "./errors.ts";
import { runTool, SOURCE_DATE_EPOCH } from "./tool.ts";

const BLOCK = 4096;
/** Fixed, because a random one would change every image; the root hash is measured, so the salt need not be secret. */
const SALT = "49524f4e434c41572d524f4f542d494d4147452d53414c542d30303030303031";
const UUID = "1f0c1a00-0000-4000-8000-0000000013c1";

/** A dm-verity protected image: data blocks, then their hash tree, without a superblock. */
export interface VerityImage {
  /** Number of 4096-byte data blocks; the hash tree starts right behind them. */
  readonly blocks: number;
  /** SHA-256 root hash, lower-case hex. */
  readonly rootHash: string;
  readonly salt: string;
}

/**
 * Make `output` from the tree at `directory`: an uncompressed erofs (it boots fastest under emulation) followed by its
 * hash tree. Owners become root, times the fixed epoch, extended attributes are left out. Needs no privilege.
 */
export async function buildVerityRoot(directory: string, output: string): Promise<VerityImage> {
  await rm(output, { force: true });
  await runTool("mkfs.erofs", ["-T", String(SOURCE_DATE_EPOCH), "-U", UUID, "--all-root", "-x-1", output, directory]);
  const blocks = Math.ceil((await stat(output)).size / BLOCK);
  await truncate(output, blocks * BLOCK);
  const hashes = `${output}.hashes`;
  const format = ["format", "--no-superblock", "--hash", "sha256", "--salt", SALT];
  const sizes = [
    "--data-block-size",
    String(BLOCK),
    "--hash-block-size",
    String(BLOCK),
    "--data-blocks",
    String(blocks),
  ];
  try {
    const report = await runTool("veritysetup", [...format, ...sizes, output, hashes]);
    await appendFile(output, await readFile(hashes));
    return { blocks, rootHash: rootHashOf(report), salt: SALT };
  } finally {
    await rm(hashes, { force: true });
  }
}

function rootHashOf(report: string): string {
  const hash = /^Root hash:\s*([0-9a-f]{64})$/m.exec(report)?.[1];
  if (hash === undefined) throw new ImageError("ERR_IMAGE_TOOL", "veritysetup: no root hash in its report");
  return hash;
}

/** The command line's form, which the initrd parses: blocks, root hash, salt and file system. */
export function verityArgument(image: VerityImage): string {
  return `verity=${image.blocks}:${image.rootHash}:${image.salt}:erofs`;
}
