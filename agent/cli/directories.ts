import { type FileHandle, mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { AgentError } from "../errors.ts";
import { reasonOf } from "./files.ts";

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
  try {
    for (const [name, content] of files) await writeDurably(join(temporary, name), content);
    await rename(temporary, directory);
    await syncDirectory(dirname(directory));
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {});
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
  await closing(file, async () => {
    await file.writeFile(content);
    await file.sync();
  });
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  await closing(directory, () => directory.sync());
}

async function closing(file: FileHandle, act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } finally {
    await file.close();
  }
}

function unwritable(path: string, cause: unknown): AgentError {
  return new AgentError("ERR_ENVIRONMENT", `directory ${path}`, {
    expected: "a directory that can be written",
    got: reasonOf(cause),
    cause,
  });
}
