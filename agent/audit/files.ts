import {
  closeSync,
  constants,
  fdatasync,
  fdatasyncSync,
  ftruncateSync,
  openSync,
  statfsSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { promisify } from "node:util";
import { syncDirectory } from "../../seal/index.ts";
import { openSegment } from "./segment.ts";

/** Bytes of a filesystem. */
export interface Space {
  /** That the log may still take. */
  readonly free: number;
  readonly total: number;
}

/** The system calls that change a log. Each is a step at which a crash or a full disk can come. */
export interface AuditFiles {
  /** Makes a new segment, which must not exist, mode 0600. */
  create(path: string): number;
  /** Appends. Returns the number of bytes written. */
  write(fd: number, bytes: Uint8Array): number;
  /** Writes over what is at `position`, and cuts off what is behind it. */
  replace(path: string, bytes: Uint8Array, position: number): void;
  /** fdatasync(2). */
  sync(fd: number): Promise<void>;
  /** The same, and waits. */
  syncNow(fd: number): void;
  /** fsync(2) of a directory: what was made or deleted in it. */
  syncDirectory(path: string): void;
  remove(path: string): void;
  space(directory: string): Space;
}

const syncData = promisify(fdatasync);
const APPEND = constants.O_WRONLY | constants.O_APPEND;

export const auditFiles: AuditFiles = {
  create: (path) => openSync(path, APPEND | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600),
  write: (fd, bytes) => writeSync(fd, bytes),
  replace: (path, bytes, position) => {
    const fd = openSegment(path, constants.O_WRONLY);
    try {
      // Written before anything is cut off: the torn bytes are gone only once the record of them is there.
      const written = writeSync(fd, bytes, 0, bytes.length, position);
      if (written !== bytes.length) throw new Error(`${written} of ${bytes.length} bytes were written`);
      ftruncateSync(fd, position + bytes.length);
      fdatasyncSync(fd);
    } finally {
      closeSync(fd);
    }
  },
  sync: syncData,
  syncNow: fdatasyncSync,
  syncDirectory,
  remove: unlinkSync,
  space: (directory) => {
    const { bavail, blocks, bsize } = statfsSync(directory);
    return { free: bavail * bsize, total: blocks * bsize };
  },
};

export function openForAppending(path: string): number {
  return openSegment(path, APPEND);
}
