import { countingApprovers } from "./approvers.ts";
import type { DecisionRequest, Denial } from "./decide.ts";
import { findScope } from "./find-scope.ts";
import type { Policy, Scope } from "./policy.ts";
import { scopeUse } from "./scope-keys.ts";

/** What would have to be otherwise for a denied request to pass the step that it failed at; the steps after it are still to come. */
export function decisionAdvice(policy: Policy, request: DecisionRequest, { step }: Denial): string {
  const scope = findScope(policy, request.scope);
  if (scope === null) return `ask for one of ${names(policy.scopes.map(({ name }) => name))}`;
  switch (step) {
    case "caller":
      return callerAdvice(policy, scope, request);
    case "frozen":
      return "the freeze would have to be lifted";
    case "valid":
      return `ask from ${scope.valid?.from} on and before ${scope.valid?.until}, or change valid of ${scope.name}`;
    case "key":
      return keyAdvice(policy, scope, request);
    case "operation":
      return `ask to ${useOf(policy, scope, request.key)}; what a key does is for all its scopes`;
    case "mechanism":
      return `ask by ${scope.mechanisms.map(({ type }) => type).join(" or ")}, or list ${request.mechanism} in ${scope.name}`;
    case "parameters":
      return `send what the rule ${scope.name}/${request.mechanism} asks for, or change the rule`;
    case "approvals":
      return approvalAdvice(policy, scope, request);
    case "rate":
      return "wait until the bucket has refilled, or raise the rate";
    case "budget":
      return request.operation === "decrypt" && !(request.failures >= 1)
        ? "wait until the key's failure bucket has refilled"
        : "wait for the next boot, or raise the budget";
  }
}

/** On what an allowed use still depends, a line each. */
export function useConditions(policy: Policy, scope: Scope, key: string): readonly string[] {
  const { rate, budget, valid, approvals, lifetime, idle } = scope;
  const keyRate = scope.from === undefined ? policy.keys[key]?.rate : undefined;
  return [
    ...(valid === undefined ? [] : [`from ${valid.from} until ${valid.until}`]),
    ...(approvals === undefined
      ? []
      : [
          `approved by ${approvals.required} of ${names(countingApprovers(policy, scope))}, for each ${approvals.for}, within ${approvals.window}`,
        ]),
    ...(rate === undefined ? [] : [`${rate.perMinute} a minute, ${rate.burst} at once`]),
    ...(keyRate === undefined
      ? []
      : [`the key ${keyRate.perMinute} a minute, ${keyRate.burst} at once, over all its scopes`]),
    ...(budget === undefined ? [] : [`${budget.operations} operations in one boot`]),
    ...(lifetime === undefined ? [] : [`sessions of ${lifetime}`]),
    ...(idle === undefined ? [] : [`sessions that rest no longer than ${idle}`]),
  ];
}

function callerAdvice({ callers }: Policy, scope: Scope, { caller }: DecisionRequest): string {
  const known = callers[scope.caller];
  if (caller === null || known === undefined) return `call as ${scope.caller}`;
  if (known.uid !== caller.uid) return `call as ${scope.caller}, uid ${known.uid}`;
  if (known.unit !== null && known.unit !== caller.unit) return `call from the unit ${known.unit}`;
  return `call with an executable that is listed, or list this one in callers.${scope.caller}.exe`;
}

function keyAdvice(policy: Policy, scope: Scope, { key }: DecisionRequest): string {
  const others = policy.scopes.filter((other) => other.from === scope.from && key !== null && other.keys.includes(key));
  const same = others.filter(({ caller }) => caller === scope.caller).map(({ name }) => name);
  if (same.length > 0) return `ask in ${same.join(" or ")}`;
  const where =
    others.length === 0
      ? "no scope shows it"
      : `only scopes of other callers show it: ${names(others.map(({ name }) => name))}`;
  return `${where}; list it in keys of ${scope.name}`;
}

function approvalAdvice(policy: Policy, scope: Scope, { approvedBy }: DecisionRequest): string {
  const counting = countingApprovers(policy, scope);
  const missing = (scope.approvals?.required ?? 0) - counting.filter((name) => approvedBy.includes(name)).length;
  return `${missing} more of ${names(counting.filter((name) => !approvedBy.includes(name)))} would have to approve`;
}

function useOf(policy: Policy, scope: Scope, key: string | null): string {
  return (key === null ? null : scopeUse(policy, scope, key)) ?? "use another key";
}

function names(all: readonly string[]): string {
  return all.join(", ") || "nobody";
}
