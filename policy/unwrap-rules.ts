import { z } from "zod";
import { MECHANISMS, type MechanismType, mechanismRow } from "./mechanisms.ts";
import type { Policy, Scope } from "./policy.ts";
import { type DeepReadonly, doubles, name, printable, sha256Tag } from "./policy-fields.ts";

const MAX_SPKI = 1024;
/** SHIM.md: CKA_ALLOWED_MECHANISMS of a key that arrives. */
const MAX_ALLOWED = 8;

const mechanismType = z.enum(MECHANISMS.map((row) => row.type) as [MechanismType, ...MechanismType[]]);

/** One key that may arrive by unwrap, and all that it will be. */
export const unwrapRule = z.strictObject({
  /** Its name among the keys that this scope lets in. */
  key: name,
  /** SubjectPublicKeyInfo, DER, in base64: the key that arrives has to prove that it is this one's private half. */
  publicKey: z
    .string()
    .max((MAX_SPKI / 3) * 4 + 4)
    .regex(/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/, "expected base64"),
  does: z.enum(["sign", "decrypt"]),
  /** A session object ends with its shim, one on the token stays. */
  where: z.enum(["session", "token"]),
  /** CKA_LABEL of the object. */
  label: printable(32).min(1),
  /** CKA_ALLOWED_MECHANISMS of the object. */
  mechanisms: z.array(mechanismType).min(1).max(MAX_ALLOWED),
  /** The one wrapped blob that is this key; null: any, and then the scope needs approvals. */
  blob: sha256Tag.nullable(),
});

export type UnwrapRule = DeepReadonly<z.infer<typeof unwrapRule>>;

/** What is wrong with a scope's `unwraps` and `from`. */
export function unwrapFindings(policy: Policy, scope: Scope): string[] {
  const label = `scope ${scope.name}`;
  const lets = scope.keys.some((key) => policy.keys[key]?.does === "unwrap") && scope.from === undefined;
  if (scope.unwraps === undefined) {
    return [...(lets ? [`${label}: a key that does unwrap needs unwraps`] : []), ...fromFindings(policy, scope)];
  }
  if (!lets) return [`${label}: unwraps without a key that does unwrap`];
  return [
    ...(scope.keys.length === 1 ? [] : [`${label}: unwraps by several keys, expected one`]),
    ...doubles(scope.unwraps.map(({ key }) => key)).map((double) => `${label}: two unwraps of ${double}`),
    ...doubles(scope.unwraps.map((rule) => rule.label)).map((double) => `${label}: two unwraps labelled ${double}`),
    ...doubles(scope.unwraps.flatMap(({ blob }) => blob ?? [])).map((double) => `${label}: two unwraps of ${double}`),
    ...scope.unwraps.flatMap((rule) => ruleFindings(label, scope, rule)),
  ];
}

/** The rule by which a key of a scope with `from` arrives; null when there is none. */
export function arrivalRule(policy: Pick<Policy, "scopes">, scope: Scope, key: string): UnwrapRule | null {
  const source = policy.scopes.find((candidate) => candidate.name === scope.from);
  return source?.unwraps?.find((rule) => rule.key === key) ?? null;
}

function fromFindings(policy: Policy, scope: Scope): string[] {
  const { from } = scope;
  if (from === undefined) return [];
  const label = `scope ${scope.name}`;
  const source = policy.scopes.find((candidate) => candidate.name === from);
  if (source?.unwraps === undefined) return [`${label}: from ${from}: no scope that unwraps`];
  return scope.keys.flatMap((key) =>
    arrivalRule(policy, scope, key) === null ? [`${label}: ${from} lets in no key ${key}`] : [],
  );
}

function ruleFindings(label: string, scope: Scope, rule: UnwrapRule): string[] {
  const what = `${label}: unwraps ${rule.key}`;
  const strays = rule.mechanisms.filter((type) => !mechanismRow(type).operations.includes(rule.does));
  return [
    ...(rule.blob === null && scope.approvals === undefined ? [`${what}: any blob needs approvals`] : []),
    ...doubles(rule.mechanisms).map((double) => `${what}: duplicate mechanism ${double}`),
    ...strays.map((type) => `${what}: ${type} does not ${rule.does}`),
  ];
}
