import { joinBytes } from "../../policy/index.ts";

/** Where replies go. `write` resolves when the kernel has the bytes, and rejects when nobody will ever take them. */
export interface Sink {
  write(bytes: Uint8Array): Promise<void>;
}

interface Parcel {
  readonly bytes: Uint8Array;
  readonly sent: () => void;
  readonly lost: (error: unknown) => void;
}

/**
 * Replies on their way. What is done in one turn of the event loop goes out in one write, and each sender waits until the kernel has
 * its bytes: a client that does not read has no more replies here than it has requests in work.
 */
export class Outbox {
  readonly #sink: Sink;
  #parcels: Parcel[] = [];
  #isWriting = false;

  constructor(sink: Sink) {
    this.#sink = sink;
  }

  /** Takes the bytes over and wipes them once they are sent or lost: they may carry a plaintext. Rejects when they are lost. */
  send(bytes: Uint8Array): Promise<void> {
    return new Promise((sent, lost) => {
      this.#parcels.push({ bytes, sent, lost });
      if (this.#isWriting) return;
      this.#isWriting = true;
      setImmediate(() => void this.#write());
    });
  }

  async #write(): Promise<void> {
    while (this.#parcels.length > 0) {
      const parcels = this.#parcels;
      this.#parcels = [];
      const [first] = parcels;
      const bytes = parcels.length === 1 && first !== undefined ? first.bytes : takeAll(parcels);
      try {
        await this.#sink.write(bytes);
        bytes.fill(0);
        for (const { sent } of parcels) sent();
      } catch (error) {
        bytes.fill(0);
        for (const { lost } of parcels) lost(error);
      }
    }
    this.#isWriting = false;
  }
}

/** Moves: no copy is left in the parcels. */
function takeAll(parcels: readonly Parcel[]): Uint8Array {
  const bytes = joinBytes(parcels.map((parcel) => parcel.bytes));
  for (const parcel of parcels) parcel.bytes.fill(0);
  return bytes;
}
