import type { Policy, Scope } from "../../policy/index.ts";

/** What is frozen: everything, or single scopes by name. */
export interface Frozen {
  readonly all: boolean;
  readonly scopes: ReadonlySet<string>;
}

/**
 * The policy in force, and what of it is frozen. Both change while the machine serves, and only in one direction: whoever calls `narrow`
 * has proved that nothing is allowed anew. Every decision reads them anew, so a change holds for whatever is not yet decided.
 */
export class LivePolicy {
  #current: Policy;
  #scopes: ReadonlyMap<string, Scope>;
  #frozen: Frozen;

  constructor(policy: Policy, frozen: Frozen = { all: false, scopes: new Set() }) {
    this.#current = policy;
    this.#scopes = byName(policy);
    this.#frozen = frozen;
  }

  get current(): Policy {
    return this.#current;
  }

  get frozen(): Frozen {
    return this.#frozen;
  }

  /** Null when the policy in force has no scope of that name (any more). */
  scope(name: string): Scope | null {
    return this.#scopes.get(name) ?? null;
  }

  isFrozen(scope: string): boolean {
    return this.#frozen.all || this.#frozen.scopes.has(scope);
  }

  narrow(next: Policy): void {
    this.#current = next;
    this.#scopes = byName(next);
  }

  /** Adds to what is frozen; nothing takes from it but a new launch. */
  freeze({ all, scopes }: Frozen): void {
    this.#frozen = { all: this.#frozen.all || all, scopes: new Set([...this.#frozen.scopes, ...scopes]) };
  }
}

function byName({ scopes }: Policy): ReadonlyMap<string, Scope> {
  return new Map(scopes.map((scope) => [scope.name, scope]));
}
