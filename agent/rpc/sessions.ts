import { recordExpiry } from "../broker/operation.ts";
import { type ScopeState, scopeOf } from "../broker/scope-state.ts";
import { SessionClock } from "../broker/session-clock.ts";
import type { Peer } from "../identity.ts";

export const MAX_SESSIONS = 64;

/** The sessions of one connection. Numbers count up from 1 and are not used again. */
export class Sessions {
  readonly #state: ScopeState;
  readonly #peer: Peer | null;
  readonly #open = new Map<number, SessionClock>();
  #last = 0;

  constructor(state: ScopeState, peer: Peer | null) {
    this.#state = state;
    this.#peer = peer;
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

  /** Whether it can be used; then this was a use. One whose time is over is closed, and that is recorded. */
  use(session: number): boolean {
    const clock = this.#open.get(session);
    if (clock === undefined) return false;
    const over = clock.use(scopeOf(this.#state) ?? {});
    if (over === null) return true;
    this.#open.delete(session);
    // Nobody waits for the record: what it says has happened, and no operation follows from it.
    void recordExpiry(this.#state, this.#peer, over);
    return false;
  }
}
