import type { Policy, Scope } from "./policy.ts";

/** The scope of that name; null when the policy has none. */
export function findScope({ scopes }: Pick<Policy, "scopes">, scopeName: string): Scope | null {
  let byName = SCOPES.get(scopes);
  if (byName === undefined) {
    byName = new Map(scopes.map((scope) => [scope.name, scope]));
    SCOPES.set(scopes, byName);
  }
  return byName.get(scopeName) ?? null;
}

/** By name, of policies that were asked for one: a decision asks for its scope several times, and there may be hundreds. */
const SCOPES = new WeakMap<Policy["scopes"], ReadonlyMap<string, Scope>>();
