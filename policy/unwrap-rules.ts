import * as z from "zod";
import { findScope } from "./find-scope.ts";
import { type DocumentFinding, findingsIn, listed, repeatFindings } from "./findings.ts";
import { MECHANISMS, type MechanismType, mechanismRow, riskOf } from "./mechanisms.ts";
import type { Policy, Scope } from "./policy.ts";
import { base64, type DeepReadonly, name, printable, sha256Tag } from "./policy-fields.ts";

const MAX_SPKI = 1024;
/** SHIM.md: CKA_ALLOWED_MECHANISMS of a key that arrives. */
const MAX_ALLOWED = 8;

const mechanismType = z.enum(MECHANISMS.map((row) => row.type) as [MechanismType, ...MechanismType[]]);

/** One key that may arrive by unwrap, and all that it will be. */
export const unwrapRule = z.strictObject({
  /** Its name among the keys that this scope lets in. */
  key: name,
  /** SubjectPublicKeyInfo, DER, in base64: the key that arrives has to prove that it is this one's private half. */
  publicKey: base64(MAX_SPKI),
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

/** What is wrong with a scope's `unwraps` and `from`, from the scope inwards. */
export function unwrapFindings(policy: Policy, scope: Scope): readonly DocumentFinding[] {
  const lets = scope.keys.some((key) => policy.keys[key]?.does === "unwrap") && scope.from === undefined;
  const { unwraps } = scope;
  if (unwraps === undefined) {
    const message = "a key that does unwrap needs unwraps";
    return [...(lets ? [{ path: ["keys"], message }] : []), ...fromFindings(policy, scope)];
  }
  if (!lets) return [{ path: ["unwraps"], message: "unwraps without a key that does unwrap" }];
  const each = (field: "key" | "label" | "blob") =>
    unwraps.flatMap((rule, index) => {
      const value = rule[field];
      return value === null ? [] : [{ value, path: ["unwraps", index, field] }];
    });
  return [
    ...(scope.keys.length === 1 ? [] : [{ path: ["keys"], message: "unwraps by several keys, expected one" }]),
    ...repeatFindings(each("key"), (double) => `two unwraps of ${double}`),
    ...repeatFindings(each("label"), (double) => `two unwraps labelled ${double}`),
    ...repeatFindings(each("blob"), (double) => `two unwraps of ${double}`),
    ...unwraps.flatMap((rule, index) =>
      findingsIn(["unwraps", index], `unwraps ${rule.key}`, ruleFindings(scope, rule)),
    ),
  ];
}

/** The rule by which a key of a scope with `from` arrives; null when there is none. */
export function arrivalRule(policy: Pick<Policy, "scopes">, scope: Scope, key: string): UnwrapRule | null {
  const source = scope.from === undefined ? null : findScope(policy, scope.from);
  return source?.unwraps?.find((rule) => rule.key === key) ?? null;
}

function fromFindings(policy: Policy, scope: Scope): readonly DocumentFinding[] {
  const { from } = scope;
  if (from === undefined) return [];
  const source = findScope(policy, from);
  if (source?.unwraps === undefined) return [{ path: ["from"], message: `from ${from}: no scope that unwraps` }];
  return scope.keys.flatMap((key, index) =>
    arrivalRule(policy, scope, key) === null
      ? [{ path: ["keys", index], message: `${from} lets in no key ${key}` }]
      : [],
  );
}

function ruleFindings(scope: Scope, rule: UnwrapRule): readonly DocumentFinding[] {
  return [
    // A window would open the key that unwraps to whatever blobs its caller chooses, one after the other.
    ...(rule.blob === null && scope.approvals?.for !== "operation"
      ? [{ path: ["blob"], message: "any blob needs approvals for each operation" }]
      : []),
    ...repeatFindings(listed(["mechanisms"], rule.mechanisms), (double) => `duplicate mechanism ${double}`),
    ...rule.mechanisms.flatMap((type, index) => {
      const path = ["mechanisms", index];
      if (!mechanismRow(type).operations.includes(rule.does))
        return [{ path, message: `${type} does not ${rule.does}` }];
      return riskOf(type, rule.does) === null ? [] : [{ path, message: `${type} is not for a key that arrives` }];
    }),
  ];
}
