import { type FileHandle, open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

/** How long to wait before reading again while nobody is connected on the host's side, in milliseconds. */
const IDLE = 50;
const CHUNK = 65_536;

/**
 * A virtio-serial port. It can be opened only once, so the agent keeps the descriptor as long as it lives; without a host
 * connection a read returns nothing at once, and a write is dropped.
 */
export class VirtioPort implements AsyncDisposable {
  readonly #handle: FileHandle;

  private constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  static async open(path: string): Promise<VirtioPort> {
    return new VirtioPort(await open(path, "r+"));
  }

  /** Lines without their end, for ever. A line longer than `cap` bytes is cut off there and its rest skipped. */
  async *lines(cap: number): AsyncGenerator<string, never> {
    let pending = Buffer.alloc(0);
    let skipping = false;
    for (;;) {
      const { bytesRead, buffer } = await this.#handle.read(Buffer.alloc(CHUNK), 0, CHUNK, null);
      if (bytesRead === 0) {
        await sleep(IDLE);
        continue;
      }
      pending = Buffer.concat([pending, buffer.subarray(0, bytesRead)]);
      for (let end = pending.indexOf(10); end >= 0; end = pending.indexOf(10)) {
        const line = pending.subarray(0, end).toString("utf8");
        pending = pending.subarray(end + 1);
        if (!skipping) yield line;
        skipping = false;
      }
      if (pending.length > cap) {
        if (!skipping) yield pending.toString("utf8");
        skipping = true;
        pending = Buffer.alloc(0);
      }
    }
  }

  async write(bytes: Uint8Array): Promise<void> {
    let offset = 0;
    while (offset < bytes.length) {
      const { bytesWritten } = await this.#handle.write(bytes, offset, bytes.length - offset);
      offset += bytesWritten;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#handle.close();
  }
}
