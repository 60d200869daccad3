/** Milliseconds of one turn of the event loop in which requests begin as they come. */
const SLICE_MS = 2;

/** Asks to go on with one more request. Null: at once. */
export type Turn = () => Promise<void> | null;

/**
 * Shares the event loop among the requests of all connections. While a turn of the loop is young, a request begins as it comes. When the
 * slice is used up, requests wait, and each turn begins as many as its own slice holds: the scopes one after the other, the requests of a
 * scope in their order. So timers, sockets and every other scope get theirs in between, however many a peer has sent in advance.
 */
export class LoopTurns {
  readonly #now: () => number;
  /** Those who wait, by scope. A scope with none is not in it; the first one is next. */
  readonly #waiting = new Map<string, (() => void)[]>();
  /** When the first request of this turn of the loop began; null before it. */
  #begun: number | null = null;

  /** @param now milliseconds of a clock that does not go backwards */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** For the requests of one scope. */
  of(scope: string): Turn {
    return () => this.#take(scope);
  }

  #take(scope: string): Promise<void> | null {
    const at = this.#now();
    if (this.#begun === null) {
      this.#begun = at;
      setImmediate(() => this.#nextTurn());
    }
    if (this.#waiting.size === 0 && at - this.#begun < SLICE_MS) return null;
    return new Promise((resolve) => {
      const queue = this.#waiting.get(scope);
      if (queue === undefined) this.#waiting.set(scope, [resolve]);
      else queue.push(resolve);
    });
  }

  /** Sockets have been read since the last one. What is begun here is the new turn's first request. */
  #nextTurn(): void {
    this.#begun = null;
    if (this.#waiting.size === 0) return;
    this.#begun = this.#now();
    setImmediate(() => this.#nextTurn());
    this.#beginNext();
  }

  #beginNext(): void {
    const [first] = this.#waiting;
    if (first === undefined) return;
    const [scope, queue] = first;
    this.#waiting.delete(scope);
    const begin = queue.shift();
    // Behind all other scopes.
    if (queue.length > 0) this.#waiting.set(scope, queue);
    begin?.();
    // After what that one does at once.
    if (this.#waiting.size > 0) queueMicrotask(() => this.#beginInSlice());
  }

  #beginInSlice(): void {
    if (this.#begun !== null && this.#now() - this.#begun < SLICE_MS) this.#beginNext();
  }
}

/** There is one event loop in a process. */
export const LOOP_TURNS = new LoopTurns();
