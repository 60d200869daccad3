import { closeSync, constants, existsSync, fstatSync, openSync, readdirSync, readSync } from "node:fs";
import { join } from "node:path";

/** What is read of one file, at most: logs of the kernel and of systemd among them. */
const MAX_FILE = 4 << 20;

/** The files of a system. Whatever cannot be read is null: it is for the check to say what that means. */
export interface Files {
  readonly path: (path: string) => string;
  readonly bytes: (path: string) => Uint8Array | null;
  /** Without the line's end. */
  readonly text: (path: string) => string | null;
  readonly exists: (path: string) => boolean;
  /** Of a folder, sorted; none where it cannot be read. */
  readonly names: (path: string) => readonly string[];
}

/** @param root `/` but for tests, and for a system that is mounted elsewhere */
export function openFiles(root = "/"): Files {
  const path = (name: string) => join(root, name);
  const bytes = (name: string) => read(path(name));
  const text = (name: string) => {
    const found = bytes(name);
    return found === null ? null : new TextDecoder().decode(found).trimEnd();
  };
  return { path, bytes, text, exists: (name) => existsSync(path(name)), names: (name) => namesIn(path(name)) };
}

function namesIn(path: string): readonly string[] {
  try {
    return readdirSync(path).toSorted();
  } catch {
    return [];
  }
}

function read(path: string): Uint8Array | null {
  let fd: number | undefined;
  try {
    // Nothing that waits for a writer: others than root may write in some of these folders.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    if (!fstatSync(fd).isFile()) return null;
    const chunks: Uint8Array[] = [];
    for (let total = 0; total < MAX_FILE; ) {
      const chunk = new Uint8Array(65_536);
      const length = readSync(fd, chunk);
      if (length === 0) break;
      chunks.push(chunk.subarray(0, length));
      total += length;
    }
    return new Uint8Array(Buffer.concat(chunks));
  } catch {
    return null;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
