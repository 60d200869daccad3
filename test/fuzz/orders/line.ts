import { AgentError } from "../../../agent/errors.ts";
import type { Channel } from "../../../agent/scopes/channel.ts";

type Piece = IteratorResult<Uint8Array>;
interface Write {
  readonly bytes: Uint8Array;
  readonly taken: () => void;
  readonly lost: (error: unknown) => void;
}

const OVER: Piece = { done: true, value: undefined };

/** A connection in memory: the client sends pieces and takes replies, or does not. */
export class Line implements Channel {
  readonly chunks: AsyncIterable<Uint8Array> = { [Symbol.asyncIterator]: () => ({ next: () => this.#next() }) };
  /** Everything that the agent has written: it is wiped in the end. */
  readonly written: Uint8Array[] = [];
  /** Pieces that the agent has read. */
  taken = 0;
  readonly #receive: (bytes: Uint8Array) => void;
  #pieces: Uint8Array[] = [];
  #reader: ((piece: Piece) => void) | null = null;
  #writes: Write[] = [];
  #hasEnded = false;
  #reads = true;
  #destroyed = false;
  /** The agent has said that it sends no more. */
  isOver = false;

  /** @param receive the client takes a copy */
  constructor(receive: (bytes: Uint8Array) => void) {
    this.#receive = receive;
  }

  get destroyed(): boolean {
    return this.#destroyed;
  }

  send(piece: Uint8Array): void {
    if (this.#destroyed || this.#hasEnded || piece.length === 0) return;
    if (this.#reader === null) this.#pieces.push(piece);
    else this.#give({ done: false, value: piece });
  }

  hangUp(): void {
    this.#hasEnded = true;
    if (this.#pieces.length === 0) this.#give(OVER);
  }

  /** Whether the client takes what is written. */
  set reads(reads: boolean) {
    this.#reads = reads;
    for (const { bytes, taken } of reads ? this.#writes.splice(0) : []) {
      this.#receive(bytes.slice());
      taken();
    }
  }

  /** Whoever has read a piece has taken it here. */
  takeLate(): void {}

  endGreeting(more: number): void {
    if (!this.#destroyed && more === 0 && this.#pieces.length === 0) return;
    this.destroy();
    throw new AgentError("ERR_FOREIGN_SENDER", "after the greeting", { expected: "nothing", got: "more" });
  }

  write(bytes: Uint8Array): Promise<void> {
    if (this.#destroyed || this.isOver) return Promise.reject(gone());
    this.written.push(bytes);
    if (this.#reads) {
      this.#receive(bytes.slice());
      return Promise.resolve();
    }
    return new Promise((taken, lost) => this.#writes.push({ bytes, taken, lost }));
  }

  end(): void {
    this.isOver = true;
  }

  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#pieces = [];
    this.#give(OVER);
    for (const { lost } of this.#writes.splice(0)) lost(gone());
  }

  #give(piece: Piece): void {
    const reader = this.#reader;
    this.#reader = null;
    if (reader !== null) this.taken += 1;
    reader?.(piece);
  }

  #next(): Promise<Piece> {
    const value = this.#pieces.shift();
    this.taken += 1;
    if (value !== undefined) return Promise.resolve({ done: false, value });
    if (this.#destroyed || this.#hasEnded) return Promise.resolve(OVER);
    return new Promise((resolve) => {
      this.#reader = resolve;
    });
  }
}

function gone(): AgentError {
  return new AgentError("ERR_NATIVE", "connection", { expected: "open", got: "closed" });
}
