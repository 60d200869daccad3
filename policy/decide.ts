import { DIGESTS, type DigestName, type MechanismRow, mechanismRow, type Operation } from "./mechanisms.ts";
import { findScope, type MechanismRule, type Policy, type Scope } from "./policy.ts";

/** The peer as the kernel and the spawner described it at connect. `exe` is `sha256:<hex>`. */
export interface CallerIdentity {
  readonly uid: number;
  readonly exe: string;
}

/** A mechanism's parameters as they came from the caller. Numbers are CK_MECHANISM_TYPE and CK_RSA_PKCS_MGF_TYPE values, `saltLength` bytes. */
export type MechanismParameters =
  | { readonly kind: "none" }
  | { readonly kind: "pss"; readonly hash: bigint; readonly mgf: bigint; readonly saltLength: bigint }
  /** Present, but not of a form that is understood here. */
  | { readonly kind: "opaque" };

/**
 * What goes to the token: not known yet (C_SignInit), or the bytes. For mechanisms that hash in the agent, the bytes are the digest.
 * `pending` never allows a signature by itself: the decision is taken again with the bytes.
 */
export type OperationInput = { readonly kind: "pending" } | { readonly kind: "data"; readonly bytes: Uint8Array };

export interface DecisionRequest {
  readonly scope: string;
  /** null: the peer could not be identified. */
  readonly caller: CallerIdentity | null;
  /** Name in the policy's `keys`; null: an object that the scope does not show. */
  readonly key: string | null;
  readonly operation: Operation;
  /** The mechanism's name, e.g. `CKM_ECDSA`; anything else is refused at step `mechanism`. */
  readonly mechanism: string;
  readonly parameters: MechanismParameters;
  readonly input: OperationInput;
  /** Tokens in the scope's bucket now; not looked at when the scope has no rate. */
  readonly tokens: number;
}

export type DecisionStep = "caller" | "key" | "operation" | "mechanism" | "parameters" | "rate";
export type Denial = { readonly allow: false; readonly step: DecisionStep; readonly reason: string };
export type Decision = { readonly allow: true; readonly rule: string } | Denial;

/**
 * The decision about one operation. Pure: no clock, no state. The steps and their order are those of POLICY.md.
 * Does not establish that the peer is still the process that was identified.
 */
export function decide(policy: Policy, request: DecisionRequest): Decision {
  const stranger = decideCaller(policy, request.scope, request.caller);
  if (stranger !== null) return stranger;
  const scope = findScope(policy, request.scope);
  if (scope === null || request.key !== scope.key)
    return deny("key", `${request.key ?? "object"} is not visible in this scope`);
  const key = policy.keys[scope.key];
  if (key?.does !== request.operation)
    return deny("operation", `key ${scope.key} does ${key?.does}, not ${request.operation}`);
  const rule = scope.mechanisms.find((candidate) => candidate.type === request.mechanism);
  if (rule === undefined || !mechanismRow(rule.type).operations.includes(request.operation)) {
    return deny("mechanism", `${request.mechanism} is not allowed`);
  }
  const misfit = parameterMisfit(rule, request.parameters) ?? inputMisfit(rule, request.input);
  if (misfit !== null) return deny("parameters", misfit);
  if (isExhausted(scope, request.tokens)) return deny("rate", `more than ${scope.rate?.perMinute} per minute`);
  return { allow: true, rule: `${scope.name}/${rule.type}` };
}

/** The first step alone, for calls that are no operation. Null when the caller is the scope's caller. */
export function decideCaller(policy: Policy, scopeName: string, caller: CallerIdentity | null): Denial | null {
  const scope = findScope(policy, scopeName);
  if (scope === null) return deny("caller", `no scope ${scopeName}`);
  if (caller === null) return deny("caller", "the peer could not be identified");
  const known = policy.callers[scope.caller];
  if (known === undefined || known.uid !== caller.uid)
    return deny("caller", `uid ${caller.uid} is not ${scope.caller}`);
  if (!known.exe.some((exe) => exe === caller.exe))
    return deny("caller", `executable ${caller.exe} is not listed for ${scope.caller}`);
  return null;
}

/** The digest that a rule is bound to: the mechanism's own, or the one that the policy had to give. */
export function ruleDigest(rule: MechanismRule): DigestName {
  const digest = mechanismRow(rule.type).hashes ?? rule.digest;
  if (digest === undefined) throw new TypeError(`mechanism ${rule.type}: a parsed policy gives a digest`);
  return digest;
}

function parameterMisfit(rule: MechanismRule, parameters: MechanismParameters): string | null {
  const row = mechanismRow(rule.type);
  switch (row.parameters) {
    case "none":
      return parameters.kind === "none" ? null : "parameters for a mechanism that has none";
    case "pss":
      return pssMisfit(ruleDigest(rule), parameters);
    case "oaep":
      return "OAEP parameters are not understood";
  }
}

function pssMisfit(digest: DigestName, parameters: MechanismParameters): string | null {
  if (parameters.kind !== "pss") return "PSS parameters are missing";
  const { mechanism, mgf, size } = DIGESTS[digest];
  if (parameters.hash !== mechanism) return `PSS hash: expected ${digest}`;
  if (parameters.mgf !== mgf) return `PSS MGF: expected MGF1 with ${digest}`;
  if (parameters.saltLength !== BigInt(size)) return `PSS salt: expected ${size} bytes, got ${parameters.saltLength}`;
  return null;
}

function inputMisfit(rule: MechanismRule, input: OperationInput): string | null {
  if (input.kind === "pending") return null;
  const digest = ruleDigest(rule);
  const { size, digestInfoPrefix } = DIGESTS[digest];
  if (!takesDigestInfo(mechanismRow(rule.type))) {
    return input.bytes.length === size
      ? null
      : `data: expected the ${size} bytes of a ${digest} digest, got ${input.bytes.length}`;
  }
  const fits =
    input.bytes.length === digestInfoPrefix.length + size &&
    digestInfoPrefix.every((byte, index) => input.bytes[index] === byte);
  return fits ? null : `data: expected a DigestInfo of ${digest}`;
}

/** RSASSA-PKCS1-v1_5 gets the DigestInfo, also when the agent made it (CKM_SHA256_RSA_PKCS). */
function takesDigestInfo(row: MechanismRow): boolean {
  return row.keyType === "rsa" && row.parameters === "none";
}

function isExhausted(scope: Scope, tokens: number): boolean {
  return scope.rate !== undefined && !(tokens >= 1);
}

function deny(step: DecisionStep, reason: string): Denial {
  return { allow: false, step, reason };
}
