import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  type Stats,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { SealError } from "./errors.ts";
import { STORE_BYTES, type StoreMedium } from "./store.ts";

/**
 * A store in a file or on a raw device.
 * @param create makes a file that does not exist, mode 0600, there after a power cut
 * @throws SealError ERR_STORE when it cannot be opened, or is neither a file nor a block device
 */
export function openStoreFile(path: string, { create = true } = {}): StoreMedium & { close(): void } {
  const fd = attempt(path, () => openSync(path, constants.O_RDWR | (create ? constants.O_CREAT : 0), 0o600));
  try {
    attempt(path, () => prepare(path, fd));
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return {
    read: (offset, length) => {
      const bytes = new Uint8Array(length);
      for (let done = 0; done < length; ) {
        const count = readSync(fd, bytes, done, length - done, offset + done);
        if (count === 0) throw unusable(path, `${STORE_BYTES} bytes`, "fewer");
        done += count;
      }
      return bytes;
    },
    write: (offset, bytes) => {
      for (let done = 0; done < bytes.length; ) {
        done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
      }
    },
    flush: () => fsyncSync(fd),
    close: () => closeSync(fd),
  };
}

function prepare(path: string, fd: number): void {
  const kind: Stats = fstatSync(fd);
  if (!kind.isFile() && !kind.isBlockDevice()) throw unusable(path, "a file or device", "something else");
  if (!kind.isFile() || kind.size >= STORE_BYTES) return;
  ftruncateSync(fd, STORE_BYTES);
  syncDirectory(dirname(path));
}

/** fsync(2) of a directory: what was made, named or deleted in it is there, or gone, after a power cut only behind this. */
export function syncDirectory(path: string): void {
  const directory = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

function attempt<T>(path: string, act: () => T): T {
  try {
    return act();
  } catch (cause) {
    if (cause instanceof SealError) throw cause;
    const got = cause instanceof Error && "code" in cause ? String(cause.code) : "a failure";
    throw unusable(path, "a file or device", got, cause);
  }
}

function unusable(path: string, expected: string, got: string, cause?: unknown): SealError {
  return new SealError("ERR_STORE", `store ${path}`, { expected, got, cause });
}
