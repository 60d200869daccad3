import type { DocumentFinding } from "./findings.ts";
import type { Policy } from "./policy.ts";
import { scopeWarnings } from "./policy-lint-scopes.ts";

const DAY = 86_400_000;
/** A review that is further away than this is none. */
const MAX_REVIEW_DAYS = 366;
/** HSMs sell sessions by the dozen or less, and each log-in of a launch waits for the one before it. */
const USUAL_LOGINS = 4;

export type LintCode =
  | "no-owner"
  | "review-passed"
  | "review-far"
  | "unused-key"
  | "unused-caller"
  | "unused-approver"
  | "shared-identity"
  | "scope-ended"
  | "unreachable-rule"
  | "excluded-approver"
  | "shadowed-scope"
  | "bypassed-scope"
  | "two-schemes"
  | "many-logins";

/** A document that holds and may yet be wrong. */
export interface Warning extends DocumentFinding {
  readonly code: LintCode;
}

/**
 * What somebody should look at before signing a policy that `parsePolicy` took: rules that nothing reaches, scopes that another one makes pointless, names
 * that nobody uses, a review that is due. Pure. Finds what can be seen in the document alone: a key's type stands in no policy, so a rule for a key type that
 * the key does not have is found at the launch, not here.
 * @param now milliseconds since 1970
 */
export function lintPolicy(policy: Policy, now: number): readonly Warning[] {
  return [
    ...documentWarnings(policy, now),
    ...unusedNames(policy),
    ...sharedIdentities(policy),
    ...manyLogins(policy),
    ...scopeWarnings(policy, now),
  ];
}

function documentWarnings({ owner, reviewBy }: Policy, now: number): readonly Warning[] {
  const days = (Date.parse(`${reviewBy}T23:59:59.999Z`) - now) / DAY;
  return [
    ...(owner.trim() === "" ? [warning("no-owner", ["owner"], "owner: nobody answers for this document")] : []),
    ...(days < 0 ? [warning("review-passed", ["reviewBy"], `reviewBy: ${reviewBy} has passed`)] : []),
    ...(days > MAX_REVIEW_DAYS
      ? [warning("review-far", ["reviewBy"], `reviewBy: ${reviewBy} is more than a year away`)]
      : []),
  ];
}

function unusedNames({ keys, callers, approvers, scopes }: Policy): readonly Warning[] {
  const usedKeys = new Set(scopes.flatMap((scope) => (scope.from === undefined ? scope.keys : [])));
  const usedCallers = new Set(scopes.map(({ caller }) => caller));
  const listed = new Set(scopes.flatMap(({ approvals }) => approvals?.of ?? []));
  const unused = (code: LintCode, field: string, names: object, used: ReadonlySet<string>, why: string) =>
    Object.keys(names)
      .filter((name) => !used.has(name))
      .map((name) => ({ ...warning(code, [field, name], `${field}.${name}: ${why}`), at: "name" as const }));
  return [
    ...unused("unused-key", "keys", keys, usedKeys, "no scope shows it"),
    ...unused("unused-caller", "callers", callers, usedCallers, "no scope is for it"),
    ...unused("unused-approver", "approvers", approvers, listed, "no scope asks for it"),
  ];
}

/**
 * Two names for one process: whatever either may do, both may. A caller is shown with the first of those before it, so that there are fewer warnings
 * than callers.
 */
function sharedIdentities({ callers }: Policy): readonly Warning[] {
  const known: Identities = new Map();
  return Object.entries(callers).flatMap(([name, caller], order) => {
    const twin = firstTwin(known, caller);
    for (const { key } of shown(caller, [ANY_UNIT, caller.unit])) if (!known.has(key)) known.set(key, { name, order });
    if (twin === undefined) return [];
    const message = `callers.${name}: a process of uid ${caller.uid} with this executable is ${twin.name} too`;
    return [warning("shared-identity", ["callers", name, "exe", twin.at], message)];
  });
}

type Caller = Policy["callers"][string];
/** By what a process shows, the first caller that it is, and which in the document that one is. */
type Identities = Map<string, { readonly name: string; readonly order: number }>;

/** Whatever unit the process is of. A policy's own units have a character at least. */
const ANY_UNIT = "";

function firstTwin(known: Identities, caller: Caller) {
  const units = caller.unit === null ? [ANY_UNIT] : [null, caller.unit];
  const twins = shown(caller, units).flatMap(({ key, at }) => {
    const earlier = known.get(key);
    return earlier === undefined ? [] : [{ ...earlier, at }];
  });
  return twins.sort((a, b) => a.order - b.order || a.at - b.at)[0];
}

/** What processes of the caller show, for each of these units; `at` is the executable's place. */
function shown({ uid, exe }: Caller, units: readonly (string | null)[]) {
  return exe.flatMap((digest, at) => units.map((unit) => ({ key: JSON.stringify([uid, digest, unit]), at })));
}

function manyLogins({ modules }: Policy): readonly Warning[] {
  return Object.entries(modules).flatMap(([name, { shims, spares }]) => {
    if (shims + spares <= USUAL_LOGINS) return [];
    const message = `modules.${name}: ${shims + spares} shims log in to each of its tokens, one after the other; see that the HSM allows as many`;
    return [warning("many-logins", ["modules", name, "shims"], message)];
  });
}

function warning(code: LintCode, path: DocumentFinding["path"], message: string): Warning {
  return { code, path, message };
}
