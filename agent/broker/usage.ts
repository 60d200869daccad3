import {
  fullBucket,
  MAX_IN_FLIGHT,
  type Rate,
  refill,
  type Scope,
  spend,
  type TokenBucket,
} from "../../policy/index.ts";

/** What is left of a scope's and a key's limits. */
export interface Left {
  readonly tokens: number;
  readonly keyTokens: number;
  readonly operationsLeft: number;
}

/**
 * How much of the policy's limits is used: rates and budgets of the scopes, rates of the keys over all scopes, operations under way. In
 * memory: a restart begins anew.
 */
export class Usage {
  readonly #now: () => number;
  readonly #scopes = new Map<string, TokenBucket>();
  readonly #keys = new Map<string, TokenBucket>();
  readonly #operations = new Map<string, number>();
  readonly #inFlight = new Map<string, number>();

  /** @param now milliseconds of a clock that does not go backwards */
  constructor(now: () => number) {
    this.#now = now;
  }

  /** @param key what makes it this key (`BrokerKey.identity`), null for none that is known */
  left(scope: Scope, key: string | null, keyRate: Rate | undefined): Left {
    return {
      tokens: level(this.#scopes, scope.name, scope.rate, this.#now),
      keyTokens: key === null ? 0 : level(this.#keys, key, keyRate, this.#now),
      operationsLeft: (scope.budget?.operations ?? 0) - (this.#operations.get(scope.name) ?? 0),
    };
  }

  /** One operation more. The caller has asked for what is left just before. */
  spend(scope: Scope, key: string, keyRate: Rate | undefined): void {
    pay(this.#scopes, scope.name, scope.rate);
    pay(this.#keys, key, keyRate);
    if (scope.budget !== undefined) this.#operations.set(scope.name, (this.#operations.get(scope.name) ?? 0) + 1);
  }

  /** A place among the scope's operations under way, until it is disposed of; null when all are taken. */
  enter({ name, inFlight = MAX_IN_FLIGHT }: Pick<Scope, "name" | "inFlight">): Disposable | null {
    const count = this.#inFlight.get(name) ?? 0;
    if (count >= inFlight) return null;
    this.#inFlight.set(name, count + 1);
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (held) this.#inFlight.set(name, (this.#inFlight.get(name) ?? 1) - 1);
        held = false;
      },
    };
  }

  /** Operations under way in a scope. */
  inFlight(scope: string): number {
    return this.#inFlight.get(scope) ?? 0;
  }
}

function level(buckets: Map<string, TokenBucket>, name: string, rate: Rate | undefined, now: () => number): number {
  if (rate === undefined) return 0;
  const at = now();
  const bucket = refill(rate, buckets.get(name) ?? fullBucket(rate, at), at);
  // A policy that was narrowed meanwhile may allow a smaller burst.
  const capped = bucket.tokens > rate.burst ? { ...bucket, tokens: rate.burst } : bucket;
  buckets.set(name, capped);
  return capped.tokens;
}

function pay(buckets: Map<string, TokenBucket>, name: string, rate: Rate | undefined): void {
  const bucket = buckets.get(name);
  if (rate !== undefined && bucket !== undefined) buckets.set(name, spend(bucket));
}
