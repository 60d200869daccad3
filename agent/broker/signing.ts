import { createHash, type Hash } from "node:crypto";
import {
  concatBytes,
  type Decision,
  type DecisionRequest,
  DIGESTS,
  type DigestName,
  decide,
  fullBucket,
  type MechanismParameters,
  type MechanismRow,
  type Policy,
  refill,
  ruleDigest,
  type Scope,
  spend,
  type TokenBucket,
} from "../../policy/index.ts";
import { type AuditLog, inputDigest } from "../audit.ts";
import type { AuditEntry } from "../audit-record.ts";
import type { Peer } from "../identity.ts";
import { CKR } from "./calls.ts";
import type { BrokerKey } from "./key.ts";
import { mechanismByValue, mechanismName } from "./mechanisms.ts";
import type { VirtualObject } from "./objects.ts";
import type { RefusalLog } from "./refusals.ts";
import { verifyRsaPkcs1, verifyRsaPss } from "./rsa-verify.ts";

/** A mechanism as the token gets it: always one that does not hash. */
export interface TokenMechanism {
  readonly type: "CKM_ECDSA" | "CKM_RSA_PKCS" | "CKM_RSA_PKCS_PSS";
  /** CK_MECHANISM_TYPE. */
  readonly value: bigint;
  /** CK_RSA_PKCS_PSS_PARAMS; null for the other mechanisms. */
  readonly pss: { readonly hash: bigint; readonly mgf: bigint; readonly saltLength: bigint } | null;
}

/** The token behind the broker. In the guest: the shim. */
export interface Signer {
  /** @param request.key name in the policy; @returns the signature as PKCS #11 defines it (ECDSA: r and s, each of the field's size) */
  sign(request: {
    readonly key: string;
    readonly mechanism: TokenMechanism;
    readonly data: Uint8Array;
  }): Promise<Uint8Array>;
}

/** What the connections of one scope share. */
export interface ScopeState {
  readonly policy: Policy;
  readonly scope: Scope;
  readonly key: BrokerKey;
  readonly signer: Signer;
  readonly audit: AuditLog;
  readonly refusals: RefusalLog;
  /** Milliseconds of a clock that does not go backwards. */
  readonly now: () => number;
  bucket: TokenBucket | null;
}

/** One C_SignInit that was allowed so far. */
export interface SignOperation {
  readonly mechanism: MechanismRow;
  readonly parameters: MechanismParameters;
  /** Runs when the agent hashes; null for raw mechanisms. */
  readonly hash: Hash | null;
  /** C_SignUpdate was called. */
  multiPart: boolean;
}

const PUBLIC_OBJECT: Decision = { allow: false, step: "operation", reason: "the public key object does not sign" };

type SignResult =
  | { readonly kind: "signature"; readonly bytes: Uint8Array }
  | { readonly kind: "refused"; readonly rv: bigint };
type SignStart =
  | { readonly kind: "started"; readonly operation: SignOperation }
  | { readonly kind: "refused"; readonly rv: bigint };

/** The decision that can be taken without data. A refusal is recorded. */
export async function startSigning(
  state: ScopeState,
  peer: Peer | null,
  object: VirtualObject | null,
  mechanism: bigint,
  parameters: MechanismParameters,
): Promise<SignStart> {
  const key = object === null ? null : state.key.name;
  const request = requestFor(state, peer, key, mechanismName(mechanism), parameters, { kind: "pending" });
  const decision = object?.kind === "public" ? PUBLIC_OBJECT : decide(state.policy, request);
  if (!decision.allow) return { kind: "refused", rv: await recordDenial(state, peer, request, decision) };
  const row = mechanismByValue(mechanism);
  if (row === null) return { kind: "refused", rv: CKR.MECHANISM_INVALID };
  const hash = row.hashes === null ? null : createHash(row.hashes);
  return { kind: "started", operation: { mechanism: row, parameters, hash, multiPart: false } };
}

/**
 * Decides with the data, spends, records, signs and verifies, in this order. The record is written before the token is asked:
 * when it cannot be written, the token is not asked.
 */
export async function finishSigning(
  state: ScopeState,
  peer: Peer | null,
  operation: SignOperation,
  data: Uint8Array,
): Promise<SignResult> {
  const bytes = tokenInput(operation, data);
  const { mechanism, parameters } = operation;
  const request = requestFor(state, peer, state.key.name, mechanism.type, parameters, { kind: "data", bytes });
  const decision = decide(state.policy, request);
  if (!decision.allow) return { kind: "refused", rv: await recordDenial(state, peer, request, decision) };
  if (state.bucket !== null) state.bucket = spend(state.bucket);
  try {
    await state.audit.append(auditEntry(peer, request, decision), state.scope.audit);
  } catch {
    return { kind: "refused", rv: CKR.FUNCTION_FAILED };
  }
  return askToken(state, operation, bytes);
}

/** Records a refusal for a peer that is not the caller, outside an operation. */
export async function recordStranger(
  state: ScopeState,
  peer: Peer | null,
  operation: AuditEntry["operation"],
  reason: string,
): Promise<void> {
  const entry: AuditEntry = {
    caller: peer === null ? null : { uid: peer.uid, pid: peer.pid, exe: peer.exe },
    scope: state.scope.name,
    key: null,
    mechanism: null,
    operation,
    inputDigest: null,
    decision: "deny",
    step: "caller",
    reason,
  };
  await state.refusals.record(entry);
}

function requestFor(
  state: ScopeState,
  peer: Peer | null,
  key: string | null,
  mechanism: string,
  parameters: MechanismParameters,
  input: DecisionRequest["input"],
): DecisionRequest {
  const { scope } = state;
  if (scope.rate !== undefined) {
    const now = state.now();
    state.bucket = refill(scope.rate, state.bucket ?? fullBucket(scope.rate, now), now);
  }
  const caller = peer === null ? null : { uid: peer.uid, exe: peer.exe };
  return {
    scope: scope.name,
    caller,
    key,
    operation: "sign",
    mechanism,
    parameters,
    input,
    tokens: state.bucket?.tokens ?? 0,
  };
}

async function recordDenial(
  state: ScopeState,
  peer: Peer | null,
  request: DecisionRequest,
  denial: Decision,
): Promise<bigint> {
  await state.refusals.record(auditEntry(peer, request, denial));
  if (denial.allow) throw new TypeError("denial: expected a refusal");
  switch (denial.step) {
    case "caller":
    case "rate":
      return CKR.FUNCTION_REJECTED;
    case "key":
      return CKR.KEY_HANDLE_INVALID;
    case "operation":
      return CKR.KEY_FUNCTION_NOT_PERMITTED;
    case "mechanism":
      return CKR.MECHANISM_INVALID;
    case "parameters":
      return request.input.kind === "pending" ? CKR.MECHANISM_PARAM_INVALID : CKR.DATA_LEN_RANGE;
  }
}

function auditEntry(peer: Peer | null, request: DecisionRequest, decision: Decision): AuditEntry {
  return {
    caller: peer === null ? null : { uid: peer.uid, pid: peer.pid, exe: peer.exe },
    scope: request.scope,
    key: request.key,
    mechanism: request.mechanism,
    operation: "sign",
    inputDigest: request.input.kind === "data" ? inputDigest(request.input.bytes) : null,
    decision: decision.allow ? "allow" : "deny",
    step: decision.allow ? null : decision.step,
    reason: decision.allow ? decision.rule : decision.reason,
  };
}

async function askToken(state: ScopeState, operation: SignOperation, data: Uint8Array): Promise<SignResult> {
  const { key } = state;
  const mechanism = tokenMechanism(operation);
  try {
    const bytes = await state.signer.sign({ key: key.name, mechanism, data });
    const good =
      bytes.length === key.signatureLength && isGoodSignature(key, mechanism, digestOf(state, operation), data, bytes);
    if (good) return { kind: "signature", bytes };
  } catch {
    // the shim's own report says why; the caller gets the one code
  }
  return { kind: "refused", rv: CKR.DEVICE_ERROR };
}

function isGoodSignature(
  key: BrokerKey,
  mechanism: TokenMechanism,
  digest: DigestName,
  data: Uint8Array,
  signature: Uint8Array,
): boolean {
  switch (mechanism.type) {
    case "CKM_ECDSA":
      return true;
    case "CKM_RSA_PKCS":
      return verifyRsaPkcs1(key, data, signature);
    case "CKM_RSA_PKCS_PSS":
      return verifyRsaPss(key, digest, data, signature);
  }
}

function tokenMechanism({ mechanism, parameters }: SignOperation): TokenMechanism {
  if (mechanism.keyType === "ec") return { type: "CKM_ECDSA", value: 0x1041n, pss: null };
  if (parameters.kind !== "pss") return { type: "CKM_RSA_PKCS", value: 0x1n, pss: null };
  const { hash, mgf, saltLength } = parameters;
  return { type: "CKM_RSA_PKCS_PSS", value: 0xdn, pss: { hash, mgf, saltLength } };
}

/** What the token gets: raw data, or the digest made here, for RSASSA-PKCS1-v1_5 inside its DigestInfo. */
function tokenInput({ mechanism, hash }: SignOperation, data: Uint8Array): Uint8Array {
  if (hash === null || mechanism.hashes === null) return data;
  const digest = Uint8Array.from(hash.update(data).digest());
  if (mechanism.keyType === "ec" || mechanism.parameters === "pss") return digest;
  return concatBytes(Uint8Array.from(DIGESTS[mechanism.hashes].digestInfoPrefix), digest);
}

function digestOf(state: ScopeState, { mechanism }: SignOperation): DigestName {
  const rule = state.scope.mechanisms.find(({ type }) => type === mechanism.type);
  if (rule === undefined) throw new TypeError(`mechanism ${mechanism.type}: was allowed without a rule`);
  return ruleDigest(rule);
}
