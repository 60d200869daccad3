import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";

/** SHA-256 of a byte string or UTF-8 text, as lower-case hex. */
export function sha256Hex(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** SHA-256 of a file of any size, as lower-case hex. */
export async function sha256File(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}

/** All regular files below `directory` whose name `accept`s, as sorted relative paths. A missing directory is empty. */
export async function listFiles(directory: string, accept: (name: string) => boolean): Promise<string[]> {
  const found = await readdir(directory, {
    recursive: true,
    withFileTypes: true,
  }).catch(() => []);
  return found
    .filter((entry) => entry.isFile() && accept(entry.name))
    .map((entry) => join(entry.parentPath, entry.name).slice(directory.length + 1))
    .filter((path) => !path.split("/").includes("node_modules"))
    .sort();
}

/** One digest over the names and contents of files, given relative to `root`; the order given does not matter. */
export async function digestFiles(root: string, paths: readonly string[]): Promise<string> {
  const lines = await Promise.all(
    paths.map(async (path) => `${sha256Hex(await readFile(join(root, path)))}  ${path}\n`),
  );
  return sha256Hex(lines.sort().join(""));
}
