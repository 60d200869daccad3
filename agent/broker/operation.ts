import {
  type Decision,
  type DecisionRequest,
  decide,
  decideCaller,
  fullBucket,
  type MechanismParameters,
  type MechanismRow,
  type MechanismRule,
  type Policy,
  refill,
  type Scope,
  spend,
  type TokenBucket,
} from "../../policy/index.ts";
import { type AuditLog, inputDigest } from "../audit/log.ts";
import type { AuditEntry } from "../audit/record.ts";
import type { Peer } from "../identity.ts";
import type { VirtualObject } from "../p11kit/objects.ts";
import { CKR } from "./ckr.ts";
import type { FailureBudget } from "./failure-budget.ts";
import type { BrokerKey } from "./key.ts";
import { mechanismByValue, mechanismName } from "./mechanisms.ts";
import type { RefusalLog } from "./refusals.ts";
import type { Token } from "./token.ts";

/** What the connections of one scope share. */
export interface ScopeState {
  readonly policy: Policy;
  readonly scope: Scope;
  readonly key: BrokerKey;
  readonly token: Token;
  readonly audit: AuditLog;
  readonly refusals: RefusalLog;
  /** The key's, over all its scopes. */
  readonly failures: FailureBudget;
  /** Milliseconds of a clock that does not go backwards. */
  readonly now: () => number;
  bucket: TokenBucket | null;
}

/** What this door offers of the policy's operations. */
export type ServedOperation = "sign" | "decrypt";

/** One C_SignInit or C_DecryptInit that was allowed so far. */
export interface StartedOperation {
  readonly kind: "started";
  readonly operation: ServedOperation;
  readonly mechanism: MechanismRow;
  readonly parameters: MechanismParameters;
  readonly rule: MechanismRule;
}

export type Refused = { readonly kind: "refused"; readonly rv: bigint };
export type OperationResult = { readonly kind: "result"; readonly bytes: Uint8Array } | Refused;

export function refused(name: keyof typeof CKR): Refused {
  return { kind: "refused", rv: CKR[name] };
}

/** The decision that can be taken without data. A refusal is recorded. */
export async function startOperation(
  state: ScopeState,
  peer: Peer | null,
  object: VirtualObject | null,
  asked: {
    readonly operation: ServedOperation;
    readonly mechanism: bigint;
    readonly parameters: MechanismParameters;
  },
): Promise<StartedOperation | Refused> {
  const { operation, mechanism, parameters } = asked;
  const request = requestFor(state, peer, {
    ...{ operation, parameters, mechanism: mechanismName(mechanism), key: object === null ? null : state.key.name },
    ...{ input: { kind: "pending" }, failures: state.failures.left() },
  });
  const decision = object?.kind === "public" ? publicObject(operation) : decide(state.policy, request);
  if (!decision.allow) return refuse(state, peer, request, decision);
  const row = mechanismByValue(mechanism);
  const rule = state.scope.mechanisms.find(({ type }) => type === row?.type);
  if (row === null || rule === undefined) return refused("MECHANISM_INVALID");
  return { kind: "started", operation, mechanism: row, parameters, rule };
}

/**
 * Decides with the data, spends the scope's rate and records, in this order. Null: the token may be asked. The record is written
 * before, so when it cannot be written the token is not asked.
 */
export async function admitOperation(
  state: ScopeState,
  peer: Peer | null,
  started: StartedOperation,
  input: DecisionRequest["input"],
  failures: number,
): Promise<Refused | null> {
  const { operation, parameters } = started;
  const request = requestFor(state, peer, {
    ...{ operation, parameters, input, failures },
    ...{ mechanism: started.mechanism.type, key: state.key.name },
  });
  const decision = decide(state.policy, request);
  if (!decision.allow) return refuse(state, peer, request, decision);
  if (state.bucket !== null) state.bucket = spend(state.bucket);
  try {
    await state.audit.append(auditEntry(peer, request, decision), state.scope.audit);
    return null;
  } catch {
    return refused("FUNCTION_FAILED");
  }
}

/** The token has too many requests already. Recorded, but as no decision of the policy's: the same request may be allowed a moment later. */
export async function refuseBusy(
  state: ScopeState,
  peer: Peer | null,
  { operation, mechanism }: StartedOperation,
): Promise<Refused> {
  await state.refusals.record({
    ...{ caller: callerOf(peer), scope: state.scope.name, key: state.key.name, mechanism: mechanism.type, operation },
    ...{
      inputDigest: null,
      decision: "deny",
      step: "busy",
      reason: "too many requests wait for the token",
      approvals: [],
    },
  });
  return refused("DEVICE_MEMORY");
}

/** Records a refusal for a peer that is not the caller, outside an operation. */
export async function recordStranger(
  state: ScopeState,
  peer: Peer | null,
  operation: AuditEntry["operation"],
  reason: string,
): Promise<void> {
  const entry: AuditEntry = {
    caller: callerOf(peer),
    scope: state.scope.name,
    key: null,
    mechanism: null,
    operation,
    inputDigest: null,
    decision: "deny",
    step: "caller",
    reason,
    approvals: [],
  };
  await state.refusals.record(entry);
}

/** Why the peer is not the scope's caller; null when it is. */
export function strangerReason(
  { policy, scope }: Pick<ScopeState, "policy" | "scope">,
  peer: Peer | null,
): string | null {
  const caller = peer === null ? null : { uid: peer.uid, exe: peer.exe };
  return decideCaller(policy, scope.name, caller)?.reason ?? null;
}

type AskedOperation = Omit<DecisionRequest, "scope" | "caller" | "tokens" | "operation"> & {
  readonly operation: ServedOperation;
};
type ServedRequest = DecisionRequest & AskedOperation;

function requestFor(state: ScopeState, peer: Peer | null, asked: AskedOperation): ServedRequest {
  const { scope } = state;
  if (scope.rate !== undefined) {
    const now = state.now();
    state.bucket = refill(scope.rate, state.bucket ?? fullBucket(scope.rate, now), now);
  }
  const caller = peer === null ? null : { uid: peer.uid, exe: peer.exe };
  return { ...asked, scope: scope.name, caller, tokens: state.bucket?.tokens ?? 0 };
}

async function refuse(
  state: ScopeState,
  peer: Peer | null,
  request: ServedRequest,
  denial: Extract<Decision, { allow: false }>,
): Promise<Refused> {
  await state.refusals.record(auditEntry(peer, request, denial));
  switch (denial.step) {
    case "caller":
    case "rate":
    case "budget":
      return refused("FUNCTION_REJECTED");
    case "key":
      return refused("KEY_HANDLE_INVALID");
    case "operation":
      return refused("KEY_FUNCTION_NOT_PERMITTED");
    case "mechanism":
      return refused("MECHANISM_INVALID");
    case "parameters":
      if (request.input.kind === "pending") return refused("MECHANISM_PARAM_INVALID");
      return refused(request.operation === "sign" ? "DATA_LEN_RANGE" : "ENCRYPTED_DATA_LEN_RANGE");
  }
}

function publicObject(operation: ServedOperation): Decision {
  return { allow: false, step: "operation", reason: `the public key object does not ${operation}` };
}

function callerOf(peer: Peer | null): AuditEntry["caller"] {
  return peer === null ? null : { uid: peer.uid, pid: peer.pid, exe: peer.exe };
}

function auditEntry(peer: Peer | null, request: ServedRequest, decision: Decision): AuditEntry {
  return {
    caller: callerOf(peer),
    scope: request.scope,
    key: request.key,
    mechanism: request.mechanism,
    operation: request.operation,
    inputDigest: request.input.kind === "pending" ? null : inputDigest(request.input.bytes),
    decision: decision.allow ? "allow" : "deny",
    step: decision.allow ? null : decision.step,
    reason: decision.allow ? decision.rule : decision.reason,
    approvals: [],
  };
}
