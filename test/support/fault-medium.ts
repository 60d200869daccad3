import { STORE_BYTES, type StoreMedium } from "../../seal/store.ts";

/** A disk's block: written whole or not at all when the power goes. */
export const BLOCK = 4096;

/**
 * What happens to the n-th write or flush of a store, and what of it reaches the disk.
 * `crash`: the process is gone; `fails`: the system call answers with an error and the process goes on.
 */
export interface Fault {
  /** Which call, counted from 0 over writes and flushes. */
  readonly call: number;
  readonly kind: "crash" | "fails";
  readonly code: "EIO" | "ENOSPC";
  /** Of a write: how many bytes of it were taken. Of a flush: which blocks, written since the last one, are on the disk. */
  readonly reaches: number | ((block: number) => boolean);
}

/** The process of the store is gone. */
export class Crash extends Error {}

/**
 * A disk with a cache in memory: what is written is safe only after a flush. Faults are storage faults, nothing else is imitated.
 * `afterPowerCut` is what a later process reads.
 */
export class FaultMedium implements StoreMedium {
  readonly #disk: Uint8Array;
  readonly #cache: Uint8Array;
  readonly #dirty = new Set<number>();
  readonly #fault: Fault | null;
  #calls = 0;

  constructor(fault: Fault | null = null, disk: Uint8Array = new Uint8Array(STORE_BYTES)) {
    this.#disk = disk;
    this.#cache = disk.slice();
    this.#fault = fault;
  }

  get calls(): number {
    return this.#calls;
  }

  read(offset: number, length: number): Uint8Array {
    return this.#cache.slice(offset, offset + length);
  }

  write(offset: number, bytes: Uint8Array): void {
    const fault = this.#next();
    const taken = fault === null || typeof fault.reaches !== "number" ? bytes : bytes.subarray(0, fault.reaches);
    this.#cache.set(taken, offset);
    for (let block = Math.floor(offset / BLOCK); block * BLOCK < offset + taken.length; block++) this.#dirty.add(block);
    if (fault !== null) this.#strike(fault, () => true);
  }

  flush(): void {
    const fault = this.#next();
    if (fault !== null) this.#strike(fault, typeof fault.reaches === "number" ? () => false : fault.reaches);
    this.#persist(() => true);
  }

  /** The medium as the next process finds it. `persisted`: which blocks of what was not flushed are there all the same. */
  afterPowerCut(persisted: (block: number) => boolean = () => false): FaultMedium {
    this.#persist(persisted);
    return new FaultMedium(null, this.#disk.slice());
  }

  /** Blocks that are written and not flushed. */
  get dirty(): readonly number[] {
    return [...this.#dirty];
  }

  #next(): Fault | null {
    const call = this.#calls++;
    return this.#fault?.call === call ? this.#fault : null;
  }

  #strike(fault: Fault, persisted: (block: number) => boolean): never {
    this.#persist(persisted);
    if (fault.kind === "crash") throw new Crash();
    throw Object.assign(new Error(fault.code), { code: fault.code });
  }

  #persist(reaches: (block: number) => boolean): void {
    for (const block of [...this.#dirty].filter(reaches)) {
      const [start, end] = [block * BLOCK, Math.min((block + 1) * BLOCK, this.#cache.length)];
      this.#disk.set(this.#cache.subarray(start, end), start);
      this.#dirty.delete(block);
    }
  }
}
