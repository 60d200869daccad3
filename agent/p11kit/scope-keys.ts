import { type Operation, type Scope, scopeUse } from "../../policy/index.ts";
import type { BrokerKey } from "../broker/key.ts";
import type { ScopeState } from "../broker/scope-state.ts";

/** A key of a scope, and the one thing that it does. */
export interface ScopeKey {
  readonly key: BrokerKey;
  readonly does: Operation | null;
}

/** The keys of a scope that are there, in the order of its policy. */
export function scopeKeys(state: ScopeState, scope: Scope): readonly ScopeKey[] {
  return scope.keys.flatMap((name) => {
    const key = state.keys.find(scope, name);
    return key === null ? [] : [{ key, does: scopeUse(state.live.current, scope, name) }];
  });
}
