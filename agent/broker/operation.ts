import {
  type Decision,
  type DecisionRequest,
  type Denial,
  decide,
  decideCaller,
  failuresOf,
  type MechanismParameters,
  type MechanismRow,
  type MechanismRule,
  type Operation,
  type Policy,
  type Scope,
  scopeKeyRate,
  sha256Hex,
  toHex,
} from "../../policy/index.ts";
import { inputDigest } from "../audit/log.ts";
import type { AuditEntry } from "../audit/record.ts";
import type { Peer } from "../identity.ts";
import type { ApprovalRequest } from "./approval-gate.ts";
import type { BrokerKey } from "./key.ts";
import { mechanismByValue, mechanismName } from "./mechanisms.ts";
import { type RefusalStep, type Refused, refused } from "./refused.ts";
import { type ScopeState, scopeOf } from "./scope-state.ts";

/** One operation that was allowed so far: what is known of it without its data. */
export interface StartedOperation {
  readonly kind: "started";
  readonly operation: Operation;
  readonly key: BrokerKey;
  readonly mechanism: MechanismRow;
  readonly parameters: MechanismParameters;
  readonly rule: MechanismRule;
}

/** One that was allowed with its data, and is in the log. */
export interface AdmittedOperation {
  readonly kind: "admitted";
  /** What was decided, and by which policy. */
  readonly request: DecisionRequest;
  readonly policy: Policy;
  /** Number of its record. */
  readonly seq: number;
}

export type OperationResult = { readonly kind: "result"; readonly bytes: Uint8Array } | Refused;

/** What a door's caller asks for. */
export interface AskedOperation {
  readonly operation: Operation;
  /** The policy's name; null for an object that the scope does not show. */
  readonly key: string | null;
  /** CK_MECHANISM_TYPE. */
  readonly mechanism: bigint;
  readonly parameters: MechanismParameters;
  /** The object that was named is the public half, which does none of these. */
  readonly isPublic?: boolean;
}

/** The decision that can be taken without data. A refusal is recorded; what is allowed waits for nothing. */
export function startOperation(
  state: ScopeState,
  peer: Peer | null,
  { operation, key: name, mechanism, parameters, isPublic = false }: AskedOperation,
): StartedOperation | Promise<Refused> {
  const scope = scopeOf(state);
  const key = scope === null || name === null ? null : state.keys.find(scope, name);
  const request = requestFor(state, peer, key, {
    operation,
    parameters,
    mechanism: mechanismName(mechanism),
    input: PENDING,
    failures: operation === "sign" || key === null || scope === null ? 0 : failuresLeft(state, scope, key),
  });
  const decision = isPublic ? publicObject(operation) : decide(state.live.current, request);
  if (!decision.allow) return refuse(state, peer, request, decision);
  const row = mechanismByValue(mechanism);
  const rule = scope?.mechanisms.find(({ type }) => type === row?.type);
  if (row === null || rule === undefined || key === null || row.keyType !== key.keyType)
    return refuse(state, peer, request, otherKeyType(request.mechanism, key));
  return { kind: "started", operation, key, mechanism: row, parameters, rule };
}

/**
 * Decides with the data, spends the limits and records, in this order. The record is written before the token is asked, so when it cannot be
 * written the token is not asked. Approvals are used up before it, too: one that is not recorded opens nothing later. To write takes time:
 * whoever asks the token looks first whether the operation was taken away meanwhile (`withhold`).
 */
export async function admitOperation(
  state: ScopeState,
  peer: Peer | null,
  started: StartedOperation,
  input: DecisionRequest["input"],
  failures = 0,
): Promise<AdmittedOperation | Refused> {
  const { operation, parameters, key } = started;
  const scope = scopeOf(state);
  const mechanism = started.mechanism.type;
  const visible = scope === null ? null : state.keys.find(scope, key.name);
  const asked = requestFor(state, peer, visible, { operation, parameters, mechanism, input, failures });
  const approval = scope === null ? null : approvalRequest(scope, started, input);
  const { approvedBy, pending } = approvals(state, asked, approval, scope);
  const request = approvedBy.length === 0 ? asked : { ...asked, approvedBy };
  const policy = state.live.current;
  const decision = decide(policy, request);
  if (!decision.allow || scope === null) {
    const denial = await refuse(state, peer, request, decision.allow ? noScope(state.name) : decision);
    return pending === null ? denial : { ...denial, approval: pending };
  }
  if (approval !== null && !state.approvals.use(approval)) return refuse(state, peer, request, expired());
  state.usage.spend(scope, key.identity, scopeKeyRate(policy, scope, key.name));
  try {
    const { seq } = await state.audit.append(auditEntry(peer, request, decision, approvedBy), scope.audit);
    state.meter.decided(state.name, "allow");
    return { kind: "admitted", request, policy, seq };
  } catch {
    state.meter.decided(state.name, "audit");
    return refused("FUNCTION_FAILED", "audit");
  }
}

/** Counts what became of an operation at the token: how long it took, and whether there is no result. */
export function countAnswer(
  { meter, name, now }: Pick<ScopeState, "meter" | "name" | "now">,
  operation: Operation,
  begun: number,
  answer: { readonly kind: "result" | "arrived" } | Refused,
): void {
  meter.answered(name, operation, now() - begun);
  if (answer.kind === "refused") meter.decided(name, answer.step);
}

/** A place among the scope's operations under way; null when there is none. */
export function enterScope(state: ScopeState): Disposable | null {
  const scope = scopeOf(state);
  return scope === null ? null : state.usage.enter(scope);
}

/** The same, and one at the token. Disposed of when the token has answered. */
export function reservePlaces(state: ScopeState, { key }: StartedOperation): Disposable | null {
  const own = enterScope(state);
  if (own === null) return null;
  const place = state.token.reserve(key.place);
  if (place === null) {
    own[Symbol.dispose]();
    return null;
  }
  return {
    [Symbol.dispose]: () => {
      own[Symbol.dispose]();
      place[Symbol.dispose]();
    },
  };
}

/** Too many requests wait already. Recorded, but as no decision of the policy's: the same request may be allowed a moment later. */
export async function refuseBusy(
  state: ScopeState,
  peer: Peer | null,
  { operation, mechanism, key }: StartedOperation,
): Promise<Refused> {
  state.meter.decided(state.name, "busy");
  await state.refusals.record({
    ...{ caller: callerOf(peer), scope: state.name, key: key.name, mechanism: mechanism.type, operation },
    ...{ inputDigest: null, decision: "deny", step: "busy", reason: "too many requests wait for the token" },
    approvals: [],
  });
  return refused("DEVICE_MEMORY", "busy");
}

/** Records a refusal for a peer that is not the caller, outside an operation. */
export function recordStranger(
  state: ScopeState,
  peer: Peer | null,
  operation: AuditEntry["operation"],
  reason: string,
): Promise<void> {
  return recordOutside(state, peer, { operation, reason, step: "caller" });
}

/** Records that a session has reached an end that its scope sets. */
export function recordExpiry(state: ScopeState, peer: Peer | null, reason: string): Promise<void> {
  return recordOutside(state, peer, { operation: "session", reason, step: "session" });
}

async function recordOutside(
  state: ScopeState,
  peer: Peer | null,
  said: { operation: AuditEntry["operation"]; reason: string; step: "caller" | "session" },
): Promise<void> {
  state.meter.decided(state.name, said.step);
  await state.refusals.record({
    ...{ caller: callerOf(peer), scope: state.name, key: null, mechanism: null, inputDigest: null },
    ...{ decision: "deny", approvals: [], ...said },
  });
}

/** Why the peer is not the scope's caller; null when it is. */
export function strangerReason({ live, name }: Pick<ScopeState, "live" | "name">, peer: Peer | null): string | null {
  return decideCaller(live.current, name, peer)?.reason ?? null;
}

/** Whether user and unit are those of the scope's caller, whatever it runs. */
export function mayCall(state: ScopeState, uid: number, unit: string | null): boolean {
  const scope = scopeOf(state);
  const known = scope === null ? undefined : state.live.current.callers[scope.caller];
  return known !== undefined && known.uid === uid && (known.unit === null || known.unit === unit);
}

type AskedRequest = Pick<DecisionRequest, "operation" | "mechanism" | "parameters" | "input" | "failures">;

const PENDING: DecisionRequest["input"] = { kind: "pending" };
const NOBODY: readonly string[] = [];
const NOTHING_LEFT = { tokens: 0, keyTokens: 0, operationsLeft: 0 };

/**
 * Field by field: this is made twice for every signature, and spread objects cost more than the decision does.
 * @param key the one that the scope shows under the name that was asked for; null for none
 */
function requestFor(state: ScopeState, peer: Peer | null, key: BrokerKey | null, asked: AskedRequest): DecisionRequest {
  const { live, name } = state;
  const scope = scopeOf(state);
  const rate = scope === null || key === null ? undefined : scopeKeyRate(live.current, scope, key.name);
  const left = scope === null ? NOTHING_LEFT : state.usage.left(scope, key === null ? null : key.identity, rate);
  return {
    scope: name,
    caller: peer,
    key: key === null ? null : key.name,
    operation: asked.operation,
    mechanism: asked.mechanism,
    parameters: asked.parameters,
    input: asked.input,
    now: state.wallClock(),
    frozen: live.isFrozen(name),
    approvedBy: NOBODY,
    tokens: left.tokens,
    keyTokens: left.keyTokens,
    operationsLeft: left.operationsLeft,
    failures: asked.failures,
  };
}

const NOT_APPROVED = { approvedBy: NOBODY, pending: null };

/** Asked only when nothing but approvals is missing: else whoever may not do it at all could fill the list of those that wait. */
function approvals(
  { live, approvals: gate }: ScopeState,
  request: DecisionRequest,
  approval: ApprovalRequest | null,
  scope: Scope | null,
): { readonly approvedBy: readonly string[]; readonly pending: string | null } {
  if (approval === null || scope?.approvals === undefined) return NOT_APPROVED;
  if (!decide(live.current, { ...request, approvedBy: scope.approvals.of }).allow) return NOT_APPROVED;
  const { id, approvers } = gate.approvedBy(approval);
  return { approvedBy: approvers, pending: id };
}

function approvalRequest(
  scope: Scope,
  { operation, key, mechanism, parameters }: StartedOperation,
  input: DecisionRequest["input"],
): ApprovalRequest | null {
  if (scope.approvals === undefined || input.kind === "pending") return null;
  return {
    ...{ scope: scope.name, caller: scope.caller, operation, mechanism: mechanism.type },
    ...{ key: key.name, keySpki: `sha256:${sha256Hex(key.spki)}` },
    parameters: `${describeParameters(parameters)}${input.kind === "wrapped" ? ` as=${input.rule}` : ""}`,
    input: inputDigest(input.bytes),
  };
}

/** The same text for the same parameters. A wrapped key's rule is part of what is approved. */
function describeParameters(parameters: MechanismParameters): string {
  switch (parameters.kind) {
    case "none":
    case "opaque":
      return parameters.kind;
    case "pss":
      return `pss hash=0x${parameters.hash.toString(16)} mgf=${parameters.mgf} salt=${parameters.saltLength}`;
    case "oaep":
      return `oaep hash=0x${parameters.hash.toString(16)} mgf=${parameters.mgf} label=${toHex(parameters.label)}`;
  }
}

function failuresLeft(state: ScopeState, scope: Scope, key: BrokerKey): number {
  return state.failures.of(key.identity, failuresOf(scope)).left();
}

async function refuse(
  state: ScopeState,
  peer: Peer | null,
  request: DecisionRequest,
  denial: Denial,
): Promise<Refused> {
  state.meter.decided(state.name, denial.step);
  await state.refusals.record(auditEntry(peer, request, denial, []));
  return refused(codeOf(denial.step, request), denial.step);
}

function codeOf(step: RefusalStep, { input, operation }: DecisionRequest): Parameters<typeof refused>[0] {
  switch (step) {
    case "key":
      return "KEY_HANDLE_INVALID";
    case "operation":
      return "KEY_FUNCTION_NOT_PERMITTED";
    case "mechanism":
      return "MECHANISM_INVALID";
    case "parameters":
      if (input.kind === "pending") return "MECHANISM_PARAM_INVALID";
      if (operation === "unwrap") return "WRAPPED_KEY_INVALID";
      return operation === "sign" ? "DATA_LEN_RANGE" : "ENCRYPTED_DATA_LEN_RANGE";
    default:
      return "FUNCTION_REJECTED";
  }
}

function publicObject(operation: Operation): Decision {
  return { allow: false, step: "operation", reason: `the public key object does not ${operation}` };
}

function otherKeyType(mechanism: string, key: BrokerKey | null): Denial {
  return { allow: false, step: "mechanism", reason: `${mechanism} is not for ${key?.keyType ?? "no"} key` };
}

/** Between two looks at the clock. */
function expired(): Denial {
  return { allow: false, step: "approvals", reason: "the approvals have just expired" };
}

function noScope(name: string): Denial {
  return { allow: false, step: "caller", reason: `no scope ${name}` };
}

export function callerOf(peer: Peer | null): AuditEntry["caller"] {
  return peer === null ? null : { uid: peer.uid, pid: peer.pid, exe: peer.exe };
}

export function auditEntry(
  peer: Peer | null,
  { scope, key, mechanism, operation, input }: DecisionRequest,
  decision: Decision,
  approvals: readonly string[],
): AuditEntry {
  return {
    caller: callerOf(peer),
    scope,
    key,
    mechanism,
    operation,
    inputDigest: input.kind === "pending" ? null : inputDigest(input.bytes),
    decision: decision.allow ? "allow" : "deny",
    step: decision.allow ? null : decision.step,
    reason: decision.allow ? decision.rule : decision.reason,
    approvals,
  };
}
