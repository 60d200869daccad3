/**
 * Bytes of a stream that wait for the rest of their frame. Each byte is copied a few times at most, however small the pieces are in
 * which it arrives. They may be plaintexts (DECRYPT): no copy is left of what was taken or moved.
 */
export class ByteQueue {
  #bytes = new Uint8Array();
  #start = 0;
  #end = 0;

  get length(): number {
    return this.#end - this.#start;
  }

  /** Bytes of memory that it takes: none when it holds nothing. */
  get size(): number {
    return this.#bytes.length;
  }

  push(bytes: Uint8Array): void {
    const { length } = this;
    if (this.#end + bytes.length > this.#bytes.length) {
      const before = this.#bytes;
      const live = before.subarray(this.#start, this.#end);
      // Twice what is needed: the next move comes only after as many bytes again.
      if (2 * (length + bytes.length) > before.length) this.#bytes = new Uint8Array(2 * (length + bytes.length));
      this.#bytes.set(live);
      before.fill(0, before === this.#bytes ? length : 0, this.#end);
      this.#start = 0;
      this.#end = length;
    }
    this.#bytes.set(bytes, this.#end);
    this.#end += bytes.length;
  }

  /** The first bytes, valid until the next `push` or `take`. */
  peek(length: number): Uint8Array {
    return this.#bytes.subarray(this.#start, Math.min(this.#start + length, this.#end));
  }

  /** Drops what it holds. */
  clear(): void {
    this.#bytes.fill(0, this.#start, this.#end);
    this.#bytes = new Uint8Array();
    this.#start = this.#end = 0;
  }

  /** Removes the first bytes and gives a copy. */
  take(length: number): Uint8Array {
    const taken = this.peek(length);
    const bytes = taken.slice();
    taken.fill(0);
    this.#start += bytes.length;
    if (this.#start === this.#end) this.clear();
    return bytes;
  }
}
