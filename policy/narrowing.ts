import { fromBase64 } from "./bytes.ts";
import { milliseconds } from "./duration.ts";
import { PolicyError } from "./errors.ts";
import { sha256Hex } from "./hash.ts";
import { mechanismRow } from "./mechanisms.ts";
import {
  atLeast,
  atMost,
  type Compare,
  entries,
  fieldsOf,
  fixed,
  ignored,
  launched,
  number,
  optional,
  type PolicyChange,
  subset,
  superset,
} from "./narrowing-fields.ts";
import type { MechanismRule, Policy, PolicyKey, Scope } from "./policy.ts";
import { MAX_CONNECTIONS, MAX_IN_FLIGHT } from "./scope.ts";
import { failuresOf } from "./scope-rules.ts";
import type { UnwrapRule } from "./unwrap-rules.ts";

export type { ChangeKind, PolicyChange } from "./narrowing-fields.ts";

type Caller = Policy["callers"][string];
type Approver = Policy["approvers"][string];
type Approvals = NonNullable<Scope["approvals"]>;
type Rate = NonNullable<Scope["rate"]>;
type Validity = NonNullable<Scope["valid"]>;

const itself = (text: string): string => text;
const rate = optional(fieldsOf<Rate>({ perMinute: atMost(number), burst: atMost(number) }));
const duration = optional(atMost<string>(milliseconds));
const instant = (text: string) => Date.parse(text);

/** Null is not looked at: whatever the unit, it is one of those. */
const wildcard: Compare<string | null> = (field, from, to) =>
  from === null && to !== null ? [{ kind: "narrows", field, from: "any", to }] : fixed(field, from, to);

const caller = fieldsOf<Caller>({ uid: fixed, exe: subset(itself), unit: wildcard });

/** Of whom an approver may not approve for, none may go. */
const approver = fieldsOf<Approver>({ key: fixed, notFor: superset });

const key = fieldsOf<PolicyKey>({ spki: fixed, does: fixed, token: fixed, accepts: subset(itself), rate });

/** By its digest: a change is one line. */
const certificate: Compare<string> = (field, from, to) => launched(field, digestOf(from), digestOf(to));
const digestOf = (base64: string): string => `sha256:${sha256Hex(fromBase64(base64))}`;

const unwrapRule = fieldsOf<UnwrapRule>({
  ...{ key: fixed, publicKey: fixed, does: fixed, where: fixed, label: fixed },
  mechanisms: subset(itself),
  blob: wildcard,
});

/** What an approval is for is another thing to approve, so neither of the two is less than the other. */
const approvals = fieldsOf<Approvals>({
  ...{ required: atLeast, of: subset(itself), for: fixed },
  window: atMost<string>(milliseconds),
});

const valid = fieldsOf<Validity>({
  from: (field, from, to) => atLeast(field, instant(from), instant(to)).map((change) => ({ ...change, from, to })),
  until: atMost(instant),
});

/** Of a rule every part counts: a mechanism with another digest or label is another one. */
function ruleName({ type, digest, label, accepts = [], ...others }: MechanismRule): string {
  others satisfies Record<string, never>;
  const parts = [type, mechanismRow(type).hashes ?? digest, label === undefined ? undefined : `label ${label}`];
  return [...parts, ...accepts].filter((part) => part !== undefined).join(" ");
}

const scope = fieldsOf<Scope>({
  ...{ name: fixed, caller: fixed, from: fixed, keys: subset(itself), mechanisms: subset(ruleName) },
  unwraps: (field, from = [], to = []) => entries(unwrapRule, "widens")(field, byName(from, "key"), byName(to, "key")),
  rate,
  failures: ignored, // compared with its default: below
  budget: optional(fieldsOf<NonNullable<Scope["budget"]>>({ operations: atMost(number) })),
  valid: optional(valid),
  ...{ lifetime: duration, idle: duration },
  connections: atMost<number | undefined>(number, MAX_CONNECTIONS),
  inFlight: atMost<number | undefined>(number, MAX_IN_FLIGHT),
  approvals: optional(approvals),
  /** Another bit may be one that is not set. */
  freezeBit: optional<number>(fixed),
  audit: (field, from, to) =>
    from === "written" && to === "durable" ? [{ kind: "narrows", field, from, to }] : fixed(field, from, to),
});

const failures = fieldsOf<ReturnType<typeof failuresOf>>({ perHour: atMost(number), burst: atMost(number) });

const wholeScope: Compare<Scope> = (field, from, to) => [
  ...scope(field, from, to),
  ...failures(`${field}.failures`, failuresOf(from), failuresOf(to)),
];

const policy = fieldsOf<Policy>({
  ...{ version: launched, serial: ignored, owner: ignored, reviewBy: ignored },
  ...{ devices: launched, sandbox: launched, onViolation: launched, onLoginLost: launched },
  ...{ modules: launched, tokens: launched },
  keys: entries(key, "widens"),
  // Allows nothing; what applications were shown at first may go, and be no other.
  certificates: entries(certificate, "needs-launch"),
  // A scope's caller is compared by its name, and so is who approves: one that no scope of before names allows nothing.
  callers: entries(caller, null),
  approvers: entries(approver, null),
  scopes: (field, from, to) => entries(wholeScope, "widens")(field, byName(from, "name"), byName(to, "name")),
});

/**
 * Every field in which a policy differs from another, and what that does. When none widens and none needs a launch, then whatever the second
 * policy allows (caller, scope, key, mechanism with parameters and data, operation, after so many, at that time, with those approvals) the
 * first allows too. Pure. Compares what stands there: a change that would widen nothing, but cannot be seen to from its field, widens.
 *
 * Does not establish who wrote either, nor that the serial is higher: see `requireNarrowing`.
 */
export function comparePolicies(from: Policy, to: Policy): readonly PolicyChange[] {
  return policy("", from, to);
}

/**
 * @returns all changes, none of which widens anything
 * @throws PolicyError ERR_POLICY_WIDENS with every change that does, or that only a launch can make, each with what it would allow
 */
export function requireNarrowing(from: Policy, to: Policy): readonly PolicyChange[] {
  const changes = comparePolicies(from, to);
  const refused = changes.filter(({ kind }) => kind !== "narrows").map((change) => describeChange(change, to));
  if (to.serial <= from.serial) refused.unshift(`serial: from ${from.serial} to ${to.serial}`);
  if (refused.length === 0) return changes;
  const expected = `a serial above ${from.serial}, and nothing newly allowed`;
  throw new PolicyError("ERR_POLICY_WIDENS", "policy", {
    expected,
    got: refused.join("; "),
    hint: "what allows more, or changes what the launch acted on, comes with a release and a new launch",
  });
}

/** One line: the field, both values and, within a scope, whom and which keys it is about. */
export function describeChange({ kind, field, from, to }: PolicyChange, { scopes }: Policy): string {
  const within = scopes.find(({ name }) => (field === "scopes" ? name === to : field.startsWith(`scopes.${name}.`)));
  const about = within === undefined ? "" : ` (caller ${within.caller}, keys ${within.keys.join(" ")})`;
  const launch = kind === "needs-launch" ? ", which takes a launch" : "";
  return `${field}: from ${from} to ${to}${about}${launch}`;
}

function byName<T, N extends keyof T>(list: readonly T[], field: N): Readonly<Record<string, T>> {
  return Object.fromEntries(list.map((entry) => [String(entry[field]), entry]));
}
