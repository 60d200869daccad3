import { milliseconds, type Scope } from "../../policy/index.ts";

/** How long one session of a scope lives: since it was opened, and since it was used. */
export class SessionClock {
  readonly #now: () => number;
  readonly #opened: number;
  #used: number;

  /** @param now milliseconds of a clock that does not go backwards */
  constructor(now: () => number) {
    this.#now = now;
    this.#opened = now();
    this.#used = this.#opened;
  }

  /** Why it is over, by the limits of the scope as it is now; null while it lives, and then this was a use. */
  use({ lifetime, idle }: Pick<Scope, "lifetime" | "idle">): string | null {
    const now = this.#now();
    if (lifetime !== undefined && now - this.#opened >= milliseconds(lifetime)) return `lifetime ${lifetime} is over`;
    if (idle !== undefined && now - this.#used >= milliseconds(idle)) return `idle for ${idle}`;
    this.#used = now;
    return null;
  }
}
