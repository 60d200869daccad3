import { lstatSync, readFileSync, readlinkSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { ImageError } from "./errors.ts";
import type { ImageFile } from "./files.ts";

const MAX_LINKS = 40;

/** The guest's file names, as the shim's loader will see them: the root image's tree, with the module's files laid over it. */
export class GuestTree {
  readonly #directory: string;
  readonly #overlay: ReadonlyMap<string, Uint8Array>;

  constructor(directory: string, overlay: readonly ImageFile[]) {
    this.#directory = directory;
    this.#overlay = new Map(overlay.map(({ path, bytes }) => [path, bytes]));
  }

  /** The path with every symbolic link followed inside the tree; links never lead out of it. */
  realPath(path: string): string {
    let rest = normalize(path).split("/").filter(Boolean);
    let done = "/";
    for (let links = 0; rest.length > 0; ) {
      const [part = "", ...after] = rest;
      const here = join(done, part);
      const target = this.#linkTarget(here);
      if (target === null) {
        done = here;
        rest = after;
        continue;
      }
      if (++links > MAX_LINKS) return path;
      const base = target.startsWith("/") ? "/" : dirname(here);
      rest = [...normalize(join(base, target)).split("/").filter(Boolean), ...after];
      done = "/";
    }
    return done;
  }

  /** The content behind a path, `null` when there is none. */
  readFile(path: string): Uint8Array | null {
    const overlaid = this.#overlay.get(normalize(path));
    if (overlaid !== undefined) return overlaid;
    try {
      return new Uint8Array(readFileSync(join(this.#directory, this.realPath(path))));
    } catch {
      return null; // absent, or a directory: no file either way
    }
  }

  #linkTarget(path: string): string | null {
    try {
      const file = join(this.#directory, path);
      return lstatSync(file).isSymbolicLink() ? readlinkSync(file) : null;
    } catch {
      return null;
    }
  }
}

/** @throws ImageError ERR_IMAGE_SOURCE when the image has no such file */
export function requireGuestFile(tree: GuestTree, path: string): Uint8Array {
  const bytes = tree.readFile(path);
  if (bytes === null) throw new ImageError("ERR_IMAGE_SOURCE", `image ${path}`, { expected: "a file", got: "none" });
  return bytes;
}
