import { untilAborted } from "./abort.ts";

/** How many operations may be under way at once. Who finds no place waits, and the one that waits longest gets the next. */
export class Places {
  #taken = 0;
  #waiting: ((hasPlace: boolean) => void)[] = [];

  /** Resolves with a place taken, or false when there will be none. @param most how many there are now */
  async take(most: number, signal?: AbortSignal): Promise<boolean> {
    signal?.throwIfAborted();
    if (this.#taken < most) {
      this.#taken += 1;
      return true;
    }
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#waiting.push(resolve);
    try {
      return await untilAborted(promise, signal);
    } catch (error) {
      const at = this.#waiting.indexOf(resolve);
      if (at >= 0) this.#waiting.splice(at, 1);
      else void promise.then((hasPlace) => hasPlace && this.leave()); // it had just got one
      throw error;
    }
  }

  leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#taken -= 1;
    else next(true);
  }

  /** Sends those away who wait. */
  dismiss(): void {
    for (const wake of this.#waiting.splice(0)) wake(false);
  }
}
