import { open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { ImageError } from "./errors.ts";
import type { Recipe } from "./recipes.ts";
import type { RootEntry } from "./rootfs.ts";

/** Paths that are the project's, with all below them: a recipe that could replace them would be another agent. */
const PROJECT = ["/init", "/usr/lib/ironclaw", "/etc/ironclaw", "/etc/passwd", "/etc/group"];
/** What the loader reads before anything else. */
const LOADER = ["/etc/ld.so.preload", "/etc/ld.so.cache"];
/** Folders whose libraries the loader, or libc, takes before those of the same name elsewhere. */
const BEFORE = /\/(?:glibc-hwcaps|gconv|tls)\//;
const PATH = /^(?:\/[A-Za-z0-9+_@:-][A-Za-z0-9+._@:-]*)+$/;

export interface OwnFile {
  readonly entry: RootEntry & { readonly kind: "file" };
  readonly elf: boolean;
}

/**
 * The files below `root/` of a recipe's folder, sorted: IMAGES.md, "Own files".
 * Throws {@link ImageError} ERR_IMAGE_SOURCE for a link, a path of the project, or a name that is not plain.
 */
export async function ownFiles({ folder }: Pick<Recipe, "folder">): Promise<readonly OwnFile[]> {
  const root = join(folder, "root");
  const found = await readdir(root, { recursive: true, withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  const files = found
    .filter((entry) => !entry.isDirectory())
    .map((entry) => ({ source: join(entry.parentPath, entry.name), plain: entry.isFile() }));
  for (const { source, plain } of files) if (!plain) throw refused(source, "a plain file", "a link or a device");
  return Promise.all(files.map(({ source }) => ownFile(source, source.slice(root.length))));
}

async function ownFile(source: string, path: string): Promise<OwnFile> {
  const taken = [...PROJECT, ...LOADER].find((name) => path === name || path.startsWith(`${name}/`));
  if (taken !== undefined) throw refused(source, `no file of ${taken}, which is the project's`, "one");
  if (!PATH.test(path)) throw refused(source, "a path of plain characters", "another");
  if (BEFORE.test(path)) throw refused(source, "no folder that the loader looks into first", "one");
  const executable = ((await stat(source)).mode & 0o100) !== 0;
  return { entry: { kind: "file", path, source, mode: executable ? 0o755 : 0o644 }, elf: await isElf(source) };
}

async function isElf(path: string): Promise<boolean> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
    return bytesRead === 4 && buffer.toString("latin1") === "\x7fELF";
  } finally {
    await file.close();
  }
}

const refused = (source: string, expected: string, got: string): ImageError =>
  new ImageError("ERR_IMAGE_SOURCE", `recipe file ${source}`, { expected, got });
