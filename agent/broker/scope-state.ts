import { failuresOf, type Scope } from "../../policy/index.ts";
import type { AuditLog } from "../audit/log.ts";
import { AgentError } from "../errors.ts";
import type { ApprovalGate } from "./approval-gate.ts";
import type { FailureBudgets } from "./failure-budget.ts";
import type { KeyRing } from "./key-ring.ts";
import type { LivePolicy } from "./live-policy.ts";
import type { Meter } from "./meter.ts";
import { RefusalLog } from "./refusals.ts";
import type { Token } from "./token.ts";
import type { Usage } from "./usage.ts";

/** What all scopes of a machine share. */
export interface Broker {
  readonly live: LivePolicy;
  readonly keys: KeyRing;
  readonly token: Token;
  readonly audit: AuditLog;
  readonly failures: FailureBudgets;
  readonly usage: Usage;
  readonly approvals: ApprovalGate;
  readonly meter: Meter;
  /** Milliseconds of a clock that does not go backwards, for rates and durations. */
  readonly now: () => number;
  /** Milliseconds since 1970, for validity. */
  readonly wallClock: () => number;
}

/** What the connections of one scope share. */
export interface ScopeState extends Broker {
  readonly name: string;
  readonly refusals: RefusalLog;
  /** Its keys, and those that it may let in, as they were when it was opened: a handle means the same key for as long as it is open. */
  readonly handles: { readonly keys: readonly string[]; readonly arrivals: readonly string[] };
}

/**
 * Opens a scope of the policy in force.
 * @throws AgentError `ERR_LAUNCH` for one that it does not have, or whose limits contradict another's
 */
export function openScope(broker: Broker, name: string): ScopeState {
  const scope = broker.live.scope(name);
  if (scope === null) throw new AgentError("ERR_LAUNCH", "scope", { expected: "a scope of the policy", got: name });
  for (const key of scope.keys) {
    const found = broker.keys.find(scope, key);
    if (found !== null) broker.failures.of(found.identity, failuresOf(scope));
  }
  const handles = { keys: scope.keys, arrivals: (scope.unwraps ?? []).map(({ key }) => key) };
  return { ...broker, name, handles, refusals: new RefusalLog(broker.audit, scope.audit, broker.now) };
}

/** The scope by the policy in force; null when a narrower policy has it no more. */
export function scopeOf({ live, name }: Pick<ScopeState, "live" | "name">): Scope | null {
  return live.scope(name);
}
