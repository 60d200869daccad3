import { z } from "zod";
import { type AcceptedRisk, MECHANISMS, type MechanismType, mechanismRow, riskOf, takesDigest } from "./mechanisms.ts";
import type { MechanismRule, Policy, PolicyKey, Scope } from "./policy.ts";

/** What a key is good for in failed decryptions: `burst` at once, then `perHour`. */
export interface FailureLimits {
  readonly perHour: number;
  readonly burst: number;
}

const DEFAULT_FAILURES: FailureLimits = { perHour: 60, burst: 16 };

const mechanismType = z.enum(MECHANISMS.map((row) => row.type) as [MechanismType, ...MechanismType[]]);

export const mechanismRule = z.strictObject({
  type: mechanismType,
  digest: z.enum(["sha1", "sha256", "sha384", "sha512"]).optional(),
  label: z
    .string()
    .regex(/^(?:[0-9a-f]{2}){1,256}$/, "expected 2 to 512 lower-case hexadecimal digits")
    .optional(),
  accepts: z
    .array(z.enum(["padding-oracle", "raw-rsa"]))
    .length(1)
    .optional(),
});
export const failureLimits = z.strictObject({ perHour: z.int().min(1).max(3600), burst: z.int().min(1).max(256) });

/** The scope's failure limits, given or not. */
export function failuresOf(scope: Scope): FailureLimits {
  return scope.failures ?? DEFAULT_FAILURES;
}

/** The weaknesses that a key may show, over all its scopes: what the token's side has to allow it besides `does`. */
export function acceptedRisks({ scopes }: Pick<Policy, "scopes">, key: string): readonly AcceptedRisk[] {
  const rules = scopes.filter((scope) => scope.key === key).flatMap(({ mechanisms }) => mechanisms);
  return [...new Set(rules.flatMap(({ accepts = [] }) => accepts))].sort();
}

/** What is wrong with one rule of a scope whose key is this one. */
export function ruleFindings(scope: Scope, key: PolicyKey, rule: MechanismRule): string[] {
  const label = `scope ${scope.name}`;
  const row = mechanismRow(rule.type);
  if (!row.operations.includes(key.does)) {
    return [`${label}: key ${scope.key} does ${key.does}, and ${rule.type} is for ${row.operations.join(" or ")}`];
  }
  return [
    ...digestFindings(label, key, rule),
    ...riskFindings(label, key, rule),
    ...(rule.label !== undefined && row.parameters !== "oaep" ? [`${label}: ${rule.type} has no label`] : []),
  ];
}

/** What is wrong with the scopes' failure limits. One key, under however many names, has one budget. */
export function failureFindings({ scopes, keys }: Policy): string[] {
  const seen = new Map<string, FailureLimits>();
  return scopes.flatMap((scope) => {
    const key = Object.hasOwn(keys, scope.key) ? keys[scope.key] : undefined;
    if (key === undefined) return [];
    const misplaced = limitsMisplaced(scope, key);
    if (misplaced !== null) return [`scope ${scope.name}: ${misplaced}`];
    const limits = failuresOf(scope);
    const first = seen.get(key.spki) ?? limits;
    seen.set(key.spki, first);
    const same = first.perHour === limits.perHour && first.burst === limits.burst;
    return same ? [] : [`scope ${scope.name}: another scope of this key has other failures`];
  });
}

function limitsMisplaced({ failures, mechanisms }: Scope, { does }: PolicyKey): string | null {
  if (does !== "decrypt") return failures === undefined ? null : "failures are counted for decryption only";
  const risky = mechanisms.find(({ type }) => riskOf(type, does) !== null);
  return failures === undefined && risky !== undefined ? `${risky.type} needs failures` : null;
}

function digestFindings(label: string, key: PolicyKey, { type, digest }: MechanismRule): string[] {
  const { hashes, parameters } = mechanismRow(type);
  if (!takesDigest(type, key.does)) return digest === undefined ? [] : [`${label}: ${type} takes no digest here`];
  if (hashes === null && digest === undefined) return [`${label}: ${type} needs a digest`];
  if (hashes !== null && digest !== undefined && digest !== hashes)
    return [`${label}: ${type} hashes with ${hashes}, not ${digest}`];
  return digest === "sha1" && parameters !== "oaep" ? [`${label}: sha1 is for CKM_RSA_PKCS_OAEP only`] : [];
}

function riskFindings(label: string, key: PolicyKey, { type, accepts = [] }: MechanismRule): string[] {
  const risk = riskOf(type, key.does);
  const [accepted] = accepts;
  if (risk !== null && accepted !== risk) return [`${label}: ${type} needs accepts ${risk}`];
  return risk === null && accepted !== undefined ? [`${label}: ${type} accepts ${accepted}, which it has not`] : [];
}
