import { type ScopeState, scopeOf } from "../broker/scope-state.ts";
import { SessionClock } from "../broker/session-clock.ts";

export const MAX_SESSIONS = 64;

/** The sessions of one connection. Numbers count up from 1 and are not used again. */
export class Sessions {
  readonly #state: ScopeState;
  readonly #open = new Map<number, SessionClock>();
  #last = 0;

  constructor(state: ScopeState) {
    this.#state = state;
  }

  /** A new session's number; null when there are too many. */
  open(): number | null {
    if (this.#open.size >= MAX_SESSIONS) return null;
    this.#last += 1;
    this.#open.set(this.#last, new SessionClock(this.#state.now));
    return this.#last;
  }

  /** Nothing for a number that is none of an open session. */
  close(session: number): void {
    this.#open.delete(session);
  }

  /** Why a session cannot be used; null when it can, and then this was a use. One that is over is closed. */
  use(session: number): string | null {
    const clock = this.#open.get(session);
    if (clock === undefined) return "no such session";
    const scope = scopeOf(this.#state);
    const over = scope === null ? null : clock.use(scope);
    if (over !== null) this.#open.delete(session);
    return over;
  }
}
