/**
 * Bytes of a stream that wait for the rest of their frame. Each byte is copied a few times at most, however small the pieces are in
 * which it arrives.
 */
export class ByteQueue {
  #bytes = new Uint8Array(4096);
  #start = 0;
  #end = 0;

  get length(): number {
    return this.#end - this.#start;
  }

  push(bytes: Uint8Array): void {
    const { length } = this;
    if (this.#end + bytes.length > this.#bytes.length) {
      const live = this.#bytes.subarray(this.#start, this.#end);
      // Twice what is needed: the next move comes only after as many bytes again.
      if (2 * (length + bytes.length) > this.#bytes.length) this.#bytes = new Uint8Array(2 * (length + bytes.length));
      this.#bytes.set(live);
      this.#start = 0;
      this.#end = length;
    }
    this.#bytes.set(bytes, this.#end);
    this.#end += bytes.length;
  }

  /** The first bytes, valid until the next `push`. */
  peek(length: number): Uint8Array {
    return this.#bytes.subarray(this.#start, Math.min(this.#start + length, this.#end));
  }

  /** Removes the first bytes and gives a copy. */
  take(length: number): Uint8Array {
    const bytes = this.peek(length).slice();
    this.#start += bytes.length;
    return bytes;
  }
}
