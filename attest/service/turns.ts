/**
 * One after the other for each key, side by side for different ones: two reports of one machine must not be compared with the same
 * continuity. What waits is bounded by `cap` for each key.
 */
export class Turns {
  readonly #cap: number;
  readonly #last = new Map<string, { promise: Promise<unknown>; waiting: number }>();

  constructor(cap: number) {
    this.#cap = cap;
  }

  /** `null` when too many wait for this key already. */
  take<T>(key: string, act: () => Promise<T>): Promise<T> | null {
    const line = this.#last.get(key) ?? { promise: Promise.resolve(), waiting: 0 };
    if (line.waiting >= this.#cap) return null;
    const turn = line.promise.then(act, act);
    const settled = turn
      .catch(() => undefined)
      .then(() => {
        line.waiting -= 1;
        if (line.waiting === 0) this.#last.delete(key);
      });
    line.promise = settled;
    line.waiting += 1;
    this.#last.set(key, line);
    return turn;
  }
}
