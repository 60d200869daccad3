import { mkdir, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { ImageError } from "./errors.ts";
import { exists } from "./unpack.ts";

const REASONS: Readonly<Record<string, string>> = {
  EACCES: "no permission",
  EPERM: "no permission",
  EROFS: "a read-only file system",
  ENOSPC: "no space left",
  ENOTDIR: "a file above it",
  EEXIST: "a file",
  ENOENT: "a place that takes none",
};

/**
 * A folder and those above it, where they are not there yet. One by one: Node's own recursion never ends where the folder above is there and takes
 * none, as in /proc.
 * @returns whether it was made
 * @throws ImageError ERR_IMAGE_PLACE
 */
export async function makeDirectory(path: string, mode = 0o777): Promise<boolean> {
  try {
    await mkdir(path, mode);
    return true;
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "a failure";
    if (code === "EEXIST" && (await isDirectory(path))) return false;
    const above = dirname(path);
    if (code === "ENOENT" && !(await exists(above))) {
      await makeDirectory(above, mode);
      return makeDirectory(path, mode);
    }
    throw new ImageError("ERR_IMAGE_PLACE", `folder ${path}`, {
      expected: "a folder, or a place for one",
      got: REASONS[code] ?? code,
      hint: "name another place, which this user may write to",
      cause,
    });
  }
}

/** Through a link too; one that leads nowhere is none. */
function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}
