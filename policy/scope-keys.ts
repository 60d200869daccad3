import type { Operation } from "./mechanisms.ts";
import type { Policy, PolicyToken, Scope } from "./policy.ts";
import { arrivalRule } from "./unwrap-rules.ts";

/** What a key of the scope is for; null for one that the policy does not know. */
export function scopeUse(policy: Pick<Policy, "keys" | "scopes">, scope: Scope, key: string): Operation | null {
  if (scope.from !== undefined) return arrivalRule(policy, scope, key)?.does ?? null;
  return Object.hasOwn(policy.keys, key) ? (policy.keys[key]?.does ?? null) : null;
}

/** The policy's name of the token that holds a key of the scope: for one that arrives, that of the key that lets it in. */
export function scopeTokenName(policy: Pick<Policy, "keys" | "scopes">, scope: Scope, key: string): string | null {
  const source = scope.from === undefined ? null : policy.scopes.find(({ name }) => name === scope.from);
  const held = source === null ? key : source?.keys[0];
  return held !== undefined && Object.hasOwn(policy.keys, held) ? (policy.keys[held]?.token ?? null) : null;
}

/** The token itself. */
export function scopeToken(policy: Policy, scope: Scope, key: string): PolicyToken | null {
  const tokenName = scopeTokenName(policy, scope, key);
  return tokenName === null ? null : (policy.tokens[tokenName] ?? null);
}
