import * as z from "zod";
import { type DocumentFinding, findingsAt, findingsIn, listed, repeatFindings } from "./findings.ts";
import {
  type AcceptedRisk,
  MECHANISMS,
  type MechanismType,
  mechanismRow,
  type Operation,
  riskOf,
  takesDigest,
} from "./mechanisms.ts";
import type { MechanismRule, Policy, Scope } from "./policy.ts";
import { scopeSpki, scopeUse } from "./scope-keys.ts";
import { unwrapFindings } from "./unwrap-rules.ts";

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
  const using = scopes.filter((scope) => scope.from === undefined && scope.keys.includes(key));
  const rules = using.flatMap(({ mechanisms }) => mechanisms);
  return [...new Set(rules.flatMap(({ accepts = [] }) => accepts))].sort();
}

/** What is wrong with the scopes beyond their fields' own ranges. */
export function scopeFindings(policy: Policy): readonly DocumentFinding[] {
  const bits = policy.scopes.flatMap(({ freezeBit }, index) =>
    freezeBit === undefined ? [] : [{ value: `${freezeBit}`, path: ["scopes", index, "freezeBit"] }],
  );
  return [
    ...policy.scopes.flatMap((scope, index) =>
      findingsIn(["scopes", index], `scope ${scope.name}`, oneScopeFindings(policy, scope)),
    ),
    ...failureFindings(policy),
    ...repeatFindings(bits, (double) => `scopes: two with the freezeBit ${double}`),
  ];
}

function oneScopeFindings(policy: Policy, scope: Scope): readonly DocumentFinding[] {
  const types = scope.mechanisms.map(({ type }) => type);
  const keyTypes = new Set(types.map((type) => mechanismRow(type).keyType));
  const uses = scope.keys.flatMap((key) => scopeUse(policy, scope, key) ?? []);
  const [does] = uses;
  const all = [...new Set(uses)].join(" and ");
  return [
    ...(Object.hasOwn(policy.callers, scope.caller)
      ? []
      : [{ path: ["caller"], message: `unknown caller ${scope.caller}` }]),
    ...repeatFindings(listed(["keys"], scope.keys), (double) => `key ${double} is listed twice`),
    ...(scope.from === undefined ? unknownKeys(policy, scope) : []),
    ...repeatFindings(
      types.map((type, index) => ({ value: type, path: ["mechanisms", index, "type"] })),
      (double) => `duplicate mechanism ${double}`,
    ),
    ...(keyTypes.size > scope.keys.length ? [{ path: ["mechanisms"], message: "mechanisms of two key types" }] : []),
    ...(new Set(uses).size > 1 ? [{ path: ["keys"], message: `its keys do ${all}, expected one use` }] : []),
    ...(does === undefined
      ? []
      : scope.mechanisms.flatMap((rule, index) =>
          findingsIn(["mechanisms", index], null, ruleFindings(scope, does, rule)),
        )),
    ...unwrapFindings(policy, scope),
  ];
}

function unknownKeys({ keys }: Policy, { keys: named }: Scope): readonly DocumentFinding[] {
  return named.flatMap((key, index) =>
    Object.hasOwn(keys, key) ? [] : [{ path: ["keys", index], message: `unknown key ${key}` }],
  );
}

/** What is wrong with one rule of a scope whose keys do this, from the rule inwards. */
function ruleFindings(scope: Scope, does: Operation, rule: MechanismRule): readonly DocumentFinding[] {
  const row = mechanismRow(rule.type);
  if (!row.operations.includes(does)) {
    const keys = scope.keys.length === 1 ? `key ${scope.keys[0]} does` : "its keys do";
    return findingsAt(["type"], [`${keys} ${does}, and ${rule.type} is for ${row.operations.join(" or ")}`]);
  }
  return [
    ...findingsAt(["digest"], digestFindings(does, rule)),
    ...findingsAt(["accepts"], riskFindings(does, rule)),
    ...findingsAt(
      ["label"],
      rule.label !== undefined && row.parameters !== "oaep" ? [`${rule.type} has no label`] : [],
    ),
  ];
}

/** What is wrong with the scopes' failure limits. One key, under however many names, has one budget. */
function failureFindings(policy: Policy): readonly DocumentFinding[] {
  const seen = new Map<string, FailureLimits>();
  return policy.scopes.flatMap((scope, index) => {
    const misplaced = limitsMisplaced(scope, scopeUse(policy, scope, scope.keys[0] ?? ""));
    const path = ["scopes", index, "failures"];
    if (misplaced !== null) return [{ path, message: `scope ${scope.name}: ${misplaced}` }];
    const limits = failuresOf(scope);
    return scope.keys.flatMap((key) => {
      const identity = scopeSpki(policy, scope, key) ?? `${scope.from} ${key}`;
      const first = seen.get(identity) ?? limits;
      seen.set(identity, first);
      const same = first.perHour === limits.perHour && first.burst === limits.burst;
      return same ? [] : [{ path, message: `scope ${scope.name}: another scope of this key has other failures` }];
    });
  });
}

function limitsMisplaced({ failures, mechanisms }: Scope, does: Operation | null): string | null {
  if (does === null) return null;
  if (does === "sign") return failures === undefined ? null : "failures are counted for decryption only";
  const risky = mechanisms.find(({ type }) => riskOf(type, does) !== null);
  return failures === undefined && risky !== undefined ? `${risky.type} needs failures` : null;
}

function digestFindings(does: Operation, { type, digest }: MechanismRule): readonly string[] {
  const { hashes, parameters } = mechanismRow(type);
  if (!takesDigest(type, does)) return digest === undefined ? [] : [`${type} takes no digest here`];
  if (hashes === null && digest === undefined) return [`${type} needs a digest`];
  if (hashes !== null && digest !== undefined && digest !== hashes)
    return [`${type} hashes with ${hashes}, not ${digest}`];
  return digest === "sha1" && parameters !== "oaep" ? ["sha1 is for CKM_RSA_PKCS_OAEP only"] : [];
}

function riskFindings(does: Operation, { type, accepts = [] }: MechanismRule): readonly string[] {
  const risk = riskOf(type, does);
  const [accepted] = accepts;
  if (risk !== null && accepted !== risk) return [`${type} needs accepts ${risk}`];
  return risk === null && accepted !== undefined ? [`${type} accepts ${accepted}, which it has not`] : [];
}
