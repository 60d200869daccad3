import { type FailureLimits, fullBucket, type Rate, refill, type TokenBucket } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";

/** One decryption's place in the budget, until it is known whether it failed. To be settled exactly once. */
export interface Reservation {
  settle(failed: boolean): void;
}

/**
 * A key's failed decryptions. A decryption takes a place before the token is asked and spends it when it fails, so however many are
 * asked at once, no more fail than the budget holds. With all places taken the next one waits for an answer; it is refused only when
 * there is nothing left to wait for.
 */
export class FailureBudget {
  #limits: FailureLimits;
  #rate: Rate;
  readonly #now: () => number;
  #bucket: TokenBucket;
  #reserved = 0;
  readonly #waiting: ((place: Reservation | null) => void)[] = [];

  constructor(limits: FailureLimits, now: () => number) {
    this.#limits = limits;
    this.#rate = { perMinute: limits.perHour / 60, burst: limits.burst };
    this.#now = now;
    this.#bucket = fullBucket(this.#rate, now());
  }

  get limits(): FailureLimits {
    return this.#limits;
  }

  /** As a policy that was narrowed meanwhile says: what it holds above the new burst is gone. */
  narrow(limits: FailureLimits): void {
    this.left();
    this.#limits = limits;
    this.#rate = { perMinute: limits.perHour / 60, burst: limits.burst };
    this.#bucket = { ...this.#bucket, tokens: Math.min(this.#bucket.tokens, limits.burst) };
  }

  /** Failures that it still holds, those of decryptions that are under way included. */
  left(): number {
    this.#bucket = refill(this.#rate, this.#bucket, this.#now());
    return this.#bucket.tokens;
  }

  /** A place, to each in the order in which they asked; null when the budget is empty. */
  reserve(): Promise<Reservation | null> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#serve();
    });
  }

  /** Wakes as many as there are places, and no more: all of the others too would cost each answer as much as there are that wait. */
  #serve(): void {
    while (this.#waiting.length > 0 && this.left() - this.#reserved >= 1) {
      this.#reserved += 1;
      this.#waiting.shift()?.({ settle: (failed) => this.#settle(failed) });
    }
    if (this.#reserved > 0) return;
    for (const refuse of this.#waiting.splice(0)) refuse(null);
  }

  #settle(failed: boolean): void {
    this.#reserved -= 1;
    // Fewer than a whole one is left where a narrower policy has lowered the burst meanwhile.
    if (failed) this.#bucket = { ...this.#bucket, tokens: Math.max(0, this.#bucket.tokens - 1) };
    this.#serve();
  }
}

/** The budgets of all keys: one for each key, whatever scopes, names and tokens it is reached by. */
export class FailureBudgets {
  readonly #now: () => number;
  readonly #budgets = new Map<string, FailureBudget>();

  /** @param now milliseconds of a clock that does not go backwards */
  constructor(now: () => number) {
    this.#now = now;
  }

  /**
   * @param identity what makes it this key and no other (`BrokerKey.identity`)
   * @throws AgentError `ERR_LAUNCH` when the key has a budget with lower limits already: they only go down
   */
  of(identity: string, limits: FailureLimits): FailureBudget {
    const budget = this.#budgets.get(identity) ?? new FailureBudget(limits, this.#now);
    const { perHour, burst } = budget.limits;
    if (limits.perHour <= perHour && limits.burst <= burst) {
      if (limits.perHour < perHour || limits.burst < burst) budget.narrow(limits);
    } else {
      const text = ({ perHour, burst }: FailureLimits) => `${perHour} per hour, ${burst} at once`;
      const fields = { expected: text(budget.limits), got: text(limits) };
      throw new AgentError("ERR_LAUNCH", "failures of one key", fields);
    }
    this.#budgets.set(identity, budget);
    return budget;
  }
}
