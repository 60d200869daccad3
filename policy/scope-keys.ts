import { fromBase64 } from "./bytes.ts";
import { findScope } from "./find-scope.ts";
import { sha256Hex } from "./hash.ts";
import type { Operation } from "./mechanisms.ts";
import type { Policy, PolicyToken, Scope } from "./policy.ts";
import type { Rate } from "./rate.ts";
import { arrivalRule } from "./unwrap-rules.ts";

/** What a key of the scope is for; null for one that the policy does not know. */
export function scopeUse(policy: Pick<Policy, "keys" | "scopes">, scope: Scope, key: string): Operation | null {
  if (scope.from !== undefined) return arrivalRule(policy, scope, key)?.does ?? null;
  return Object.hasOwn(policy.keys, key) ? (policy.keys[key]?.does ?? null) : null;
}

/** `sha256:<hex>` of the public key of a key of the scope; null for one that the policy does not know. */
export function scopeSpki(policy: Pick<Policy, "keys" | "scopes">, scope: Scope, key: string): string | null {
  if (scope.from === undefined) return Object.hasOwn(policy.keys, key) ? (policy.keys[key]?.spki ?? null) : null;
  const rule = arrivalRule(policy, scope, key);
  return rule === null ? null : `sha256:${sha256Hex(fromBase64(rule.publicKey))}`;
}

/** The key's own rate, over all scopes and by whatever way it came: it belongs to the key, not to a name. */
export function scopeKeyRate(policy: Pick<Policy, "keys" | "scopes">, scope: Scope, key: string): Rate | undefined {
  // Entries of one key have one rate.
  if (scope.from === undefined) return Object.hasOwn(policy.keys, key) ? policy.keys[key]?.rate : undefined;
  const spki = scopeSpki(policy, scope, key);
  return spki === null ? undefined : ratesOf(policy.keys).get(spki);
}

function ratesOf(keys: Policy["keys"]): ReadonlyMap<string, Rate | undefined> {
  const found = RATES.get(keys) ?? new Map(Object.values(keys).map(({ spki, rate }) => [spki, rate]));
  RATES.set(keys, found);
  return found;
}

/** By public key, of policies that were asked: a decision looks one up. */
const RATES = new WeakMap<Policy["keys"], ReadonlyMap<string, Rate | undefined>>();

/** The policy's name of the token that holds a key of the scope: for one that arrives, that of the key that lets it in. */
export function scopeTokenName(policy: Pick<Policy, "keys" | "scopes">, scope: Scope, key: string): string | null {
  const source = scope.from === undefined ? null : findScope(policy, scope.from);
  const held = source === null ? key : source?.keys[0];
  return held !== undefined && Object.hasOwn(policy.keys, held) ? (policy.keys[held]?.token ?? null) : null;
}

/** The token itself. */
export function scopeToken(policy: Policy, scope: Scope, key: string): PolicyToken | null {
  const tokenName = scopeTokenName(policy, scope, key);
  return tokenName === null ? null : (policy.tokens[tokenName] ?? null);
}
