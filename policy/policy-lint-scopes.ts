import type { DocumentFinding } from "./findings.ts";
import { mechanismRow } from "./mechanisms.ts";
import type { Policy, Scope } from "./policy.ts";
import type { LintCode, Warning } from "./policy-lint.ts";
import { arrivalRule } from "./unwrap-rules.ts";

/** What makes a use harder, or less of it: a scope that has one of these where another has none is the narrower of the two. */
const LIMITS = [
  ...(["rate", "budget", "valid", "approvals", "lifetime", "idle", "connections", "inFlight"] as const),
  ...(["freezeBit", "audit"] as const),
] as const;
type Limit = (typeof LIMITS)[number];

export function scopeWarnings(policy: Policy, now: number): readonly Warning[] {
  return [
    ...policy.scopes.flatMap((scope, index) => [
      ...endedScope(scope, index, now),
      ...unreachableRules(policy, scope, index),
      ...excludedApprovers(policy, scope, index),
    ]),
    ...shadowedScopes(policy.scopes),
    ...twoSchemes(policy.scopes),
  ];
}

function endedScope({ name, valid }: Scope, index: number, now: number): readonly Warning[] {
  if (valid === undefined || Date.parse(valid.until) > now) return [];
  return [warning("scope-ended", ["scopes", index, "valid", "until"], `scope ${name}: closed since ${valid.until}`)];
}

/** Of keys that arrive by unwrap the policy says which mechanisms the token will do with them. */
function unreachableRules(policy: Policy, scope: Scope, index: number): readonly Warning[] {
  if (scope.from === undefined) return [];
  const possible = new Set(scope.keys.flatMap((key) => arrivalRule(policy, scope, key)?.mechanisms ?? []));
  return scope.mechanisms.flatMap(({ type }, at) => {
    if (possible.has(type)) return [];
    const message = `scope ${scope.name}: no key that arrives from ${scope.from} does ${type}`;
    return [warning("unreachable-rule", ["scopes", index, "mechanisms", at, "type"], message)];
  });
}

function excludedApprovers(
  { approvers }: Policy,
  { name, caller, approvals }: Scope,
  index: number,
): readonly Warning[] {
  return (approvals?.of ?? []).flatMap((approver, at) => {
    if (approvers[approver]?.notFor.includes(caller) !== true) return [];
    const message = `scope ${name}: ${approver} is listed, and may not approve for ${caller}`;
    return [warning("excluded-approver", ["scopes", index, "approvals", "of", at], message)];
  });
}

/** A scope beside one of the same caller that allows all that it does and asks for no more. */
function shadowedScopes(scopes: readonly Scope[]): readonly Warning[] {
  return scopes.flatMap((scope, index) => {
    const wider = scopes.find(
      (other, at) => at !== index && covers(other, scope) && !(at > index && covers(scope, other)),
    );
    if (wider === undefined) return [];
    const idle = LIMITS.filter((limit) => scope[limit] !== undefined && !isSame(scope[limit], wider[limit]));
    const path = ["scopes", index, "name"];
    if (idle.length === 0) {
      return [
        warning("shadowed-scope", path, `scope ${scope.name}: ${wider.name} allows ${scope.caller} the same already`),
      ];
    }
    const message = `scope ${scope.name}: ${wider.name} allows ${scope.caller} the same without its ${idle.join(", ")}`;
    const frozen = idle.includes("freezeBit") ? `; what freezes ${scope.name} leaves ${wider.name} open` : "";
    return [warning("bypassed-scope", path, `${message}${frozen}`)];
  });
}

/** Does `wide` allow whatever `narrow` does, as easily and as often? */
function covers(wide: Scope, narrow: Scope): boolean {
  return (
    wide.caller === narrow.caller &&
    wide.from === narrow.from &&
    narrow.keys.every((key) => wide.keys.includes(key)) &&
    narrow.mechanisms.every((rule) => wide.mechanisms.some((other) => isSame(rule, other))) &&
    (narrow.unwraps ?? []).every((rule) => (wide.unwraps ?? []).some((other) => isSame(rule, other))) &&
    LIMITS.every((limit) => isNoTighter(limit, wide, narrow))
  );
}

function isNoTighter(limit: Limit, wide: Scope, narrow: Scope): boolean {
  // Each scope has a bit of its own: whichever it is, it does not freeze the other one.
  if (limit === "freezeBit") return wide.freezeBit === undefined || narrow.freezeBit !== undefined;
  if (limit === "audit") return wide.audit === "written" || narrow.audit === "durable";
  return (
    wide[limit] === undefined ||
    isSame(wide[limit], narrow[limit]) ||
    (limit === "rate" && isFaster(wide.rate, narrow.rate))
  );
}

function isFaster(wide: Scope["rate"], narrow: Scope["rate"]): boolean {
  if (wide === undefined || narrow === undefined) return false;
  return wide.perMinute >= narrow.perMinute && wide.burst >= narrow.burst;
}

/** A key is safest in one scheme: a proof about one says nothing of a key that is in two. */
function twoSchemes(scopes: readonly Scope[]): readonly Warning[] {
  const seen = new Map<string, { readonly scheme: string; readonly scope: string }>();
  const warned = new Set<string>();
  return scopes.flatMap(({ name, from = "", keys, mechanisms }, index) => {
    // Of keys of both types nothing says which is which.
    if (mechanisms.some(({ type }) => mechanismRow(type).keyType !== "rsa")) return [];
    return keys.flatMap((key) =>
      mechanisms.flatMap(({ type }, at) => {
        const [id, scheme] = [`${from} ${key}`, schemeOf(type)];
        const first = seen.get(id) ?? { scheme, scope: name };
        seen.set(id, first);
        if (first.scheme === scheme || warned.has(id)) return [];
        warned.add(id);
        const where = first.scope === name ? "" : ` in ${first.scope}`;
        const message = `scope ${name}: key ${key} is used by ${scheme}, and${where} by ${first.scheme}`;
        return [warning("two-schemes", ["scopes", index, "mechanisms", at, "type"], message)];
      }),
    );
  });
}

/** The scheme of RFC 8017, whoever hashes. */
function schemeOf(type: string): string {
  if (type.includes("PSS")) return "RSASSA-PSS";
  if (type.includes("OAEP")) return "RSAES-OAEP";
  return type.endsWith("X_509") ? "raw RSA" : "PKCS #1 v1.5";
}

/** Parsed values: fields in the order in which the schema has them, so that equal ones have equal texts. */
function isSame(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

function warning(code: LintCode, path: DocumentFinding["path"], message: string): Warning {
  return { code, path, message };
}
