import { mechanismRow } from "./mechanisms.ts";
import type { MechanismRule, Policy } from "./policy.ts";
import { failuresOf } from "./scope-rules.ts";

/** What each word of `accepts` means for whoever signs the policy. */
const meanings = {
  "padding-oracle": "every answer tells whether a ciphertext is well padded",
  "raw-rsa": "whoever may use the key can sign and decrypt everything with it",
  "unknown-history": "it may have been outside its token",
} as const;

/**
 * The weaknesses that a policy accepts, a line each: of mechanisms, then of keys, then of the kernel. Whoever signs one reads them
 * first. They are in no report: a verifier sees the keys' attributes, what the kernel lacks, and the policy's digest.
 */
export function policyRisks(policy: Policy): readonly string[] {
  return [...policy.scopes.flatMap(scopeRisks), ...keyRisks(policy), ...policy.sandbox.lacks.map(featureRisk)];
}

/** What a scope accepts: of its mechanisms and of its key. */
export function acceptedBy(policy: Policy, { keys, from, mechanisms }: Policy["scopes"][number]): readonly string[] {
  const ofKey = from === undefined ? keys.flatMap((key) => policy.keys[key]?.accepts ?? []) : [];
  return [...new Set([...mechanisms.flatMap(({ accepts = [] }) => accepts), ...ofKey])].sort();
}

/** The document has the keys' digests and not their types: where a scope has keys of two, which they are cannot be told. */
function keysOf({ keys, mechanisms }: Policy["scopes"][number], type: MechanismRule["type"]): string {
  const names = keys.join(", ");
  const keyTypes = new Set(mechanisms.map((rule) => mechanismRow(rule.type).keyType));
  return keyTypes.size === 1 ? names : `whichever of ${names} is an ${mechanismRow(type).keyType.toUpperCase()} key`;
}

function scopeRisks(scope: Policy["scopes"][number]): readonly string[] {
  const { perHour, burst } = failuresOf(scope);
  return scope.mechanisms.flatMap(({ type, accepts = [] }) =>
    accepts.map((risk) => {
      const limit = risk === "padding-oracle" ? `; ${burst} failures at once, then ${perHour} an hour` : "";
      return `scope ${scope.name}: ${risk}, by ${type} with ${keysOf(scope, type)}: ${meanings[risk]}${limit}`;
    }),
  );
}

function keyRisks({ keys, scopes }: Policy): readonly string[] {
  return Object.entries(keys).flatMap(([key, { accepts }]) => {
    const users = scopes
      .filter((scope) => scope.from === undefined && scope.keys.includes(key))
      .map(({ name }) => name);
    const where = users.length === 0 ? "in no scope" : `in ${users.join(", ")}`;
    return accepts.map((risk) => `key ${key}, ${where}: ${risk}: ${meanings[risk]}`);
  });
}

function featureRisk(feature: string): string {
  return `sandbox: without ${feature}, where the machine's kernel lacks it`;
}
