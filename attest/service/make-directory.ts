import { access, mkdir, stat } from "node:fs/promises";
import { dirname } from "node:path";
import type { ErrorFields } from "../../policy/index.ts";

const REASONS: Readonly<Record<string, string>> = {
  EACCES: "no permission",
  EPERM: "no permission",
  EROFS: "a read-only file system",
  ENOSPC: "no space left",
  ENOTDIR: "a file above it",
  EEXIST: "a file",
  ENOENT: "a place that takes none",
};

export interface FolderOrder {
  readonly path: string;
  readonly mode: number;
  /** The error of the caller's own domain. */
  refusal(what: string, fields: ErrorFields): Error;
}

/**
 * A folder and those above it, where they are not there yet. One by one: Node's own recursion never ends where the folder above is there and takes
 * none, as in /proc.
 * @returns whether it was made
 * @throws the order's refusal
 */
export async function makeDirectory(order: FolderOrder): Promise<boolean> {
  const { path, mode, refusal } = order;
  try {
    await mkdir(path, mode);
    return true;
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "a failure";
    if (code === "EEXIST" && (await isDirectory(path))) return false;
    const above = dirname(path);
    if (code === "ENOENT" && !(await exists(above))) {
      await makeDirectory({ ...order, path: above });
      return makeDirectory(order);
    }
    throw refusal(`folder ${path}`, {
      expected: "a folder, or a place for one",
      got: REASONS[code] ?? code,
      hint: "name another place, which this user may write to",
      cause,
    });
  }
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** Through a link too; one that leads nowhere is none. */
function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}
