import { access, readFile, realpath } from "node:fs/promises";
import { basename, join } from "node:path";
import { parseElf } from "../attest/index.ts";
import { ImageError } from "./errors.ts";

/** The loader's default directories on amd64 Debian, in the order it searches them without a cache file. */
export const LIBRARY_DIRECTORIES = ["/usr/lib/x86_64-linux-gnu", "/usr/lib"];

/**
 * The libraries that `files` need, directly or not, as guest path -> file in `tree`. Every library appears under its
 * SONAME only. Throws {@link ImageError} ERR_IMAGE_SOURCE when one is not in the tree.
 */
export async function libraryClosure(tree: string, files: readonly string[]): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const queue = [...files];
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    for (const name of parseElf(await readFile(file)).needed) {
      const { guestPath, source } = await locate(tree, name, file);
      if (found.has(guestPath)) continue;
      found.set(guestPath, source);
      queue.push(source);
    }
  }
  return found;
}

async function locate(tree: string, name: string, wantedBy: string): Promise<{ guestPath: string; source: string }> {
  for (const directory of LIBRARY_DIRECTORIES) {
    const path = join(tree, directory, name);
    const present = await access(path).then(
      () => true,
      () => false,
    );
    if (present) return { guestPath: join(directory, name), source: await realpath(path) };
  }
  throw new ImageError(
    "ERR_IMAGE_SOURCE",
    `library ${name}, needed by ${basename(wantedBy)}: not in the locked packages`,
  );
}
