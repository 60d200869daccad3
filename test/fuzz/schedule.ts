export interface Share<T> {
  readonly target: T;
  /** How long it may be fuzzed. */
  readonly milliseconds: number;
}

export interface Plan {
  readonly milliseconds: number;
  /** Targets at once. */
  readonly jobs: number;
  /** Each target has all the time. Otherwise all of them together have it. */
  readonly each: boolean;
}

/**
 * Hands targets out, each with its time. Where they share it, a target has an equal part of what is left at that moment, so that one which takes
 * long to build, or ends early, changes what the others have and not when the last one is done; but it has a quarter of its fair part at least.
 */
export class Schedule<T> {
  readonly #waiting: T[];
  readonly #plan: Plan;
  readonly #now: () => number;
  readonly #start: number;
  readonly #least: number;

  constructor(targets: readonly T[], plan: Plan, now = () => performance.now()) {
    this.#waiting = [...targets];
    this.#plan = plan;
    this.#now = now;
    this.#start = now();
    this.#least = plan.milliseconds / Math.ceil(targets.length / plan.jobs) / 4;
  }

  /** Null when all have been handed out. */
  next(): Share<T> | null {
    const { milliseconds, jobs, each } = this.#plan;
    const rounds = Math.ceil(this.#waiting.length / jobs);
    const target = this.#waiting.shift();
    if (target === undefined) return null;
    const left = Math.max(0, this.#start + milliseconds - this.#now());
    return { target, milliseconds: each ? milliseconds : Math.max(this.#least, left / rounds) };
  }
}
