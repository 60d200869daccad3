import type { Operation } from "../../policy/index.ts";
import type { BrokerKey } from "../broker/key.ts";
import type { ScopeState } from "../broker/operation.ts";
import type { VirtualObject } from "./objects.ts";

/** A key of a scope, and the one thing that it does. */
export interface ScopeKey {
  readonly key: BrokerKey;
  readonly does: Operation;
}

/** The keys of a scope, in the order of its policy. */
export function scopeKeys({ key, policy, scope }: ScopeState): readonly ScopeKey[] {
  return [{ key, does: policy.keys[scope.key]?.does ?? "unwrap" }];
}

/** The key that an object is of. */
export function keyOf(state: ScopeState, { handle }: VirtualObject): ScopeKey {
  const found = scopeKeys(state)[Math.floor((Number(handle) - 1) / 2)];
  if (found === undefined) throw new TypeError(`object ${handle}: no key of this scope`);
  return found;
}
