import { join, Reader } from "./bytes.ts";
import { protocolError } from "./errors.ts";
import type { Reply } from "./messages.ts";
import { GREETING, HEAD, MAGIC, MAX_LENGTH, VERSION } from "./protocol.ts";

/** Cuts the agent's bytes into its greeting and its replies. What was taken is wiped where it lay: it may be a plaintext. */
export class ReplySplitter {
  #pieces: Uint8Array[] = [];
  #have = 0;
  #isGreeted = false;
  #length: number | null = null;

  /** Takes the piece over. */
  push(piece: Uint8Array): void {
    // Of a Buffer, `slice` would be no copy.
    this.#pieces.push(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength));
    this.#have += piece.length;
  }

  /**
   * The next whole reply; null when more bytes are needed.
   * @throws ClientError `ERR_CLIENT_PROTOCOL`
   */
  next(): Reply | null {
    this.#isGreeted ||= this.#readGreeting();
    if (!this.#isGreeted) return null;
    this.#length ??= this.#readLength();
    const bytes = this.#length === null ? null : this.#take(this.#length);
    if (bytes === null) return null;
    this.#length = null;
    const reader = new Reader(bytes);
    const reply = { id: reader.u32(), reason: reader.u8(), payload: bytes.slice(HEAD) };
    bytes.fill(0);
    return reply;
  }

  #readGreeting(): boolean {
    const greeting = this.#take(GREETING);
    if (greeting === null) return false;
    if (String.fromCharCode(...greeting) === `${MAGIC}${String.fromCharCode(VERSION)}`) return true;
    throw protocolError(`greeting: expected ${MAGIC} and version ${VERSION}`);
  }

  #readLength(): number | null {
    const bytes = this.#take(4);
    if (bytes === null) return null;
    const length = new Reader(bytes).u32();
    if (length < HEAD || length > MAX_LENGTH) throw protocolError(`length: got ${length}`);
    return length;
  }

  /** Bytes are moved together only once enough of them are here: pieces of one byte cost no more than others. */
  #take(length: number): Uint8Array | null {
    if (this.#have < length) return null;
    let [first = new Uint8Array()] = this.#pieces;
    if (first.length < length) {
      const pieces = this.#pieces;
      first = join(...pieces);
      for (const piece of pieces) piece.fill(0);
      this.#pieces = [first];
    }
    const taken = first.slice(0, length);
    first.fill(0, 0, length);
    if (first.length > length) this.#pieces[0] = first.subarray(length);
    else this.#pieces.shift();
    this.#have -= length;
    return taken;
  }
}
