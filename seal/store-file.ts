import { closeSync, constants, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import { SealError } from "./errors.ts";
import { STORE_BYTES, type StoreMedium } from "./store.ts";

/**
 * A store in a file or on a raw device. A file that does not exist is made, mode 0600.
 * @throws SealError ERR_STORE when it cannot be opened, or is neither a file nor a block device
 */
export function openStoreFile(path: string): StoreMedium & { close(): void } {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  } catch (cause) {
    const got = cause instanceof Error && "code" in cause ? String(cause.code) : "a failure";
    throw new SealError("ERR_STORE", `store ${path}`, { expected: "a file or device", got, cause });
  }
  const kind = fstatSync(fd);
  if (!kind.isFile() && !kind.isBlockDevice()) {
    closeSync(fd);
    throw new SealError("ERR_STORE", `store ${path}`, { expected: "a file or device", got: "something else" });
  }
  if (kind.isFile() && kind.size < STORE_BYTES) ftruncateSync(fd, STORE_BYTES);
  return {
    read: (offset, length) => {
      const bytes = new Uint8Array(length);
      for (let done = 0; done < length; ) {
        const count = readSync(fd, bytes, done, length - done, offset + done);
        if (count === 0)
          throw new SealError("ERR_STORE", `store ${path}`, { expected: `${STORE_BYTES} bytes`, got: "fewer" });
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
