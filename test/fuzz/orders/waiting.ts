/** What somebody waits for and the run decides about: at once, or later and in any order. */
export class Waiting<T> {
  readonly #waiting: ((outcome: T) => void)[] = [];
  /** What everything gets that comes from now on; null: it waits. */
  #now: T | null;

  constructor(now: T | null) {
    this.#now = now;
  }

  wait(act: (outcome: T) => void): void {
    if (this.#now === null) this.#waiting.push(act);
    else act(this.#now);
  }

  /** Those that wait, with this outcome; and whatever comes after them. */
  always(outcome: T): void {
    this.#now = outcome;
    for (const act of this.#waiting.splice(0)) act(outcome);
  }

  hold(): void {
    this.#now = null;
  }

  /** One of those that wait. */
  one(which: number, outcome: T): void {
    const [act] = this.#waiting.splice(which % Math.max(1, this.#waiting.length), 1);
    act?.(outcome);
  }

  get size(): number {
    return this.#waiting.length;
  }
}
