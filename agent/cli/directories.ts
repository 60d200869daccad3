import { mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { syncDirectory } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import { reasonOf } from "../system-reason.ts";

/**
 * Fills a directory that is new or empty with all of the files or, when anything goes wrong or the program is cut off, none: they
 * are written beside it, and it takes its name last.
 * @param files content by path; the paths are the program's own
 * @throws AgentError ERR_ENVIRONMENT when it cannot be written, or there is something in it
 */
export async function writeDirectory(path: string, files: ReadonlyMap<string, Uint8Array>): Promise<void> {
  const directory = resolve(path);
  const temporary = `${directory}.${process.pid}.tmp`;
  await requireFree(directory, path);
  try {
    await mkdir(temporary);
  } catch (cause) {
    throw unwritable(path, cause);
  }
  let place = temporary;
  try {
    for (const [name, content] of files) await writeDurably(join(temporary, name), content);
    for (const made of directoriesOf(temporary, [...files.keys()])) syncDirectory(made);
    await rename(temporary, directory);
    place = directory;
    syncDirectory(dirname(directory));
  } catch (cause) {
    await rm(place, { recursive: true, force: true }).catch(() => {});
    throw unwritable(path, cause);
  }
}

/** A plain file or a link is refused too: `readdir` and `rename` say so. */
async function requireFree(directory: string, path: string): Promise<void> {
  try {
    const present = await readdir(directory);
    if (present.length === 0) return;
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return;
    throw unwritable(path, cause);
  }
  throw new AgentError("ERR_ENVIRONMENT", `directory ${path}`, {
    expected: "a directory that is new or empty",
    got: "one with files in it",
  });
}

async function writeDurably(path: string, content: Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const file = await open(path, "wx");
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** The root, and every directory between it and a file of these relative names. */
function directoriesOf(root: string, names: readonly string[]): ReadonlySet<string> {
  const found = new Set([root]);
  for (const name of names) for (let at = join(root, dirname(name)); at !== root; at = dirname(at)) found.add(at);
  return found;
}

function unwritable(path: string, cause: unknown): AgentError {
  return new AgentError("ERR_ENVIRONMENT", `directory ${path}`, {
    expected: "a directory that can be written",
    got: reasonOf(cause),
    cause,
  });
}
