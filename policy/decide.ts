import { countingApprovers } from "./approvers.ts";
import { fromHex, toHex } from "./bytes.ts";
import { findScope } from "./find-scope.ts";
import { sha256Hex } from "./hash.ts";
import {
  DIGESTS,
  type DigestName,
  type MechanismRow,
  mechanismRow,
  OAEP_DIGESTS,
  type OaepDigestName,
  type Operation,
  riskOf,
} from "./mechanisms.ts";
import type { MechanismRule, Policy, Scope } from "./policy.ts";
import { scopeKeyRate, scopeUse } from "./scope-keys.ts";

/** CK_RSA_PKCS_OAEP_SOURCE_TYPE: the label is given. */
const CKZ_DATA_SPECIFIED = 1n;

/** The peer as the kernel and the spawner described it. `exe` is `sha256:<hex>`, `unit` the last component of its cgroup. */
export interface CallerIdentity {
  readonly uid: number;
  readonly exe: string;
  readonly unit: string | null;
}

/** A mechanism's parameters as they came from the caller. Numbers are CK_MECHANISM_TYPE and CK_RSA_PKCS_MGF_TYPE values, `saltLength` bytes. */
export type MechanismParameters =
  | { readonly kind: "none" }
  | { readonly kind: "pss"; readonly hash: bigint; readonly mgf: bigint; readonly saltLength: bigint }
  /** `source` is a CK_RSA_PKCS_OAEP_SOURCE_TYPE. */
  | {
      readonly kind: "oaep";
      readonly hash: bigint;
      readonly mgf: bigint;
      readonly source: bigint;
      readonly label: Uint8Array;
    }
  /** Present, but not of a form that is understood here. */
  | { readonly kind: "opaque" };

/**
 * What goes to the token: not known yet (C_SignInit, C_DecryptInit), or the bytes. For mechanisms that hash in the agent, the bytes are
 * the digest. `pending` never allows an operation by itself: the decision is taken again with the bytes.
 */
export type OperationInput =
  | { readonly kind: "pending" }
  | { readonly kind: "data"; readonly bytes: Uint8Array }
  /** A ciphertext, or what raw RSA signs. `modulus` is the key's, big-endian without leading zeros. */
  | { readonly kind: "block"; readonly bytes: Uint8Array; readonly modulus: Uint8Array }
  /** A ciphertext that is a key, and the rule of the scope's `unwraps` by which it is to come in. */
  | { readonly kind: "wrapped"; readonly bytes: Uint8Array; readonly modulus: Uint8Array; readonly rule: string };

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
  /** Milliseconds since 1970. */
  readonly now: number;
  /** The scope is frozen, by itself or with everything. */
  readonly frozen: boolean;
  /** Names of the approvers who have approved this, or its scope's window. Not looked at when the scope needs no approvals. */
  readonly approvedBy: readonly string[];
  /** Tokens in the scope's bucket now; not looked at when the scope has no rate. */
  readonly tokens: number;
  /** The same of the key's own bucket. */
  readonly keyTokens: number;
  /** Operations that the scope's budget still holds; not looked at when it has none. */
  readonly operationsLeft: number;
  /** Failures that the key's budget still holds; looked at for decryption and unwrap, which is one. */
  readonly failures: number;
}

export type DecisionStep =
  | "caller"
  | "frozen"
  | "valid"
  | "key"
  | "operation"
  | "mechanism"
  | "parameters"
  | "approvals"
  | "rate"
  | "budget";
export type Denial = { readonly allow: false; readonly step: DecisionStep; readonly reason: string };
export type Decision = { readonly allow: true; readonly rule: string } | Denial;

/**
 * The decision about one operation. Pure: no clock, no state. The steps and their order are those of POLICY.md.
 * Does not establish that the peer is still the process that was identified, nor that the approvals are real.
 */
export function decide(policy: Policy, request: DecisionRequest): Decision {
  const stranger = decideCaller(policy, request.scope, request.caller);
  if (stranger !== null) return stranger;
  const scope = findScope(policy, request.scope);
  if (scope === null || request.frozen) return deny("frozen", `scope ${request.scope} is frozen`);
  const found = outsideValidity(scope, request.now) ?? decideRule(policy, scope, request);
  if ("allow" in found) return found;
  return decideUse(policy, scope, request) ?? { allow: true, rule: `${scope.name}/${found.type}` };
}

/** The steps that ask what is to be done: the rule that allows it, or why none does. */
function decideRule(policy: Policy, scope: Scope, request: DecisionRequest): MechanismRule | Denial {
  const { key, operation, mechanism } = request;
  const does = key === null || !scope.keys.includes(key) ? null : scopeUse(policy, scope, key);
  if (does === null) return deny("key", `${key ?? "object"} is not visible in this scope`);
  if (does !== operation) return deny("operation", `key ${key} does ${does}, not ${operation}`);
  const rule = scope.mechanisms.find((candidate) => candidate.type === mechanism);
  if (rule === undefined || !isPossible(rule, operation)) return deny("mechanism", `${mechanism} is not allowed`);
  const misfit = parameterMisfit(rule, request.parameters) ?? inputMisfit(scope, rule, request);
  return misfit === null ? rule : deny("parameters", misfit);
}

/** The steps that ask how often, and with whose word. */
function decideUse(policy: Policy, scope: Scope, request: DecisionRequest): Denial | null {
  const { key, operation, tokens, keyTokens, operationsLeft, failures } = request;
  const approvals = missingApprovals(policy, scope, request);
  if (approvals !== null) return deny("approvals", approvals);
  if (scope.rate !== undefined && !(tokens >= 1)) return deny("rate", `more than ${scope.rate.perMinute} per minute`);
  const keyRate = key === null ? undefined : scopeKeyRate(policy, scope, key);
  if (keyRate !== undefined && !(keyTokens >= 1))
    return deny("rate", `key ${key}: more than ${keyRate.perMinute} per minute`);
  if (scope.budget !== undefined && !(operationsLeft >= 1))
    return deny("budget", `all ${scope.budget.operations} operations of this boot are used`);
  if (operation !== "sign" && !(failures >= 1)) return deny("budget", `too many failed decryptions with key ${key}`);
  return null;
}

/** Whether a scope may be used at a moment, in milliseconds since 1970. */
export function isValidAt({ valid }: Pick<Scope, "valid">, now: number): boolean {
  // Not a number is neither before nor after.
  return valid === undefined || (now >= Date.parse(valid.from) && now < Date.parse(valid.until));
}

function outsideValidity(scope: Scope, now: number): Denial | null {
  const { valid, name } = scope;
  return isValidAt(scope, now)
    ? null
    : deny("valid", `scope ${name} is valid from ${valid?.from} until ${valid?.until}`);
}

/** A request without data is not yet one that somebody could approve. Its approvals, or those of the window, are looked at with the data. */
function missingApprovals(policy: Policy, scope: Scope, { input, approvedBy }: DecisionRequest): string | null {
  const { approvals } = scope;
  if (approvals === undefined || input.kind === "pending") return null;
  const given = countingApprovers(policy, scope).filter((name) => approvedBy.includes(name)).length;
  return given >= approvals.required ? null : `${given} of ${approvals.required} approvals`;
}

/** The first step alone, for calls that are no operation. Null when the caller is the scope's caller. */
export function decideCaller(policy: Policy, scopeName: string, caller: CallerIdentity | null): Denial | null {
  const scope = findScope(policy, scopeName);
  if (scope === null) return deny("caller", `no scope ${scopeName}`);
  if (caller === null) return deny("caller", "the peer could not be identified");
  const known = Object.hasOwn(policy.callers, scope.caller) ? policy.callers[scope.caller] : undefined;
  if (known === undefined || known.uid !== caller.uid)
    return deny("caller", `uid ${caller.uid} is not ${scope.caller}`);
  if (known.unit !== null && known.unit !== caller.unit)
    return deny("caller", `unit ${caller.unit ?? "none"} is not that of ${scope.caller}`);
  if (!known.exe.some((exe) => exe === caller.exe))
    return deny("caller", `executable ${caller.exe} is not listed for ${scope.caller}`);
  return null;
}

/** The digest that a signing rule is bound to: the mechanism's own, or the one that the policy had to give. */
export function ruleDigest(rule: MechanismRule): DigestName {
  const digest = mechanismRow(rule.type).hashes ?? rule.digest;
  if (digest === undefined || digest === "sha1")
    throw new TypeError(`mechanism ${rule.type}: a parsed policy gives a digest`);
  return digest;
}

/** The digest of an OAEP rule, for its hash and for MGF1. */
export function oaepDigest({ type, digest }: MechanismRule): OaepDigestName {
  if (type !== "CKM_RSA_PKCS_OAEP" || digest === undefined)
    throw new TypeError(`mechanism ${type}: a parsed policy gives OAEP a digest`);
  return digest;
}

/** The only parameters that a rule allows. */
export function ruleParameters(rule: MechanismRule): MechanismParameters {
  switch (mechanismRow(rule.type).parameters) {
    case "none":
      return { kind: "none" };
    case "pss": {
      const { mechanism: hash, mgf, size } = DIGESTS[ruleDigest(rule)];
      return { kind: "pss", hash, mgf, saltLength: BigInt(size) };
    }
    case "oaep": {
      const { mechanism: hash, mgf } = OAEP_DIGESTS[oaepDigest(rule)];
      return { kind: "oaep", hash, mgf, source: CKZ_DATA_SPECIFIED, label: fromHex(rule.label ?? "") };
    }
  }
}

/** A parsed policy has no rule without its accepted risk; one that was made otherwise allows nothing. */
function isPossible(rule: MechanismRule, operation: Operation): boolean {
  const risk = riskOf(rule.type, operation);
  const isAccepted = risk === null || rule.accepts?.includes(risk) === true;
  return isAccepted && mechanismRow(rule.type).operations.includes(operation);
}

function parameterMisfit(rule: MechanismRule, parameters: MechanismParameters): string | null {
  const row = mechanismRow(rule.type);
  switch (row.parameters) {
    case "none":
      return parameters.kind === "none" ? null : "parameters for a mechanism that has none";
    case "pss":
      return pssMisfit(ruleDigest(rule), parameters);
    case "oaep":
      return oaepMisfit(rule, parameters);
  }
}

function oaepMisfit(rule: MechanismRule, parameters: MechanismParameters): string | null {
  if (parameters.kind !== "oaep") return "OAEP parameters are missing";
  const digest = oaepDigest(rule);
  const { mechanism, mgf } = OAEP_DIGESTS[digest];
  if (parameters.hash !== mechanism) return `OAEP hash: expected ${digest}`;
  if (parameters.mgf !== mgf) return `OAEP MGF: expected MGF1 with ${digest}`;
  if (toHex(parameters.label) !== (rule.label ?? "")) return "OAEP label: expected the rule's";
  // libp11 says 0 where there is no label.
  const isSource = parameters.source === CKZ_DATA_SPECIFIED || (parameters.source === 0n && rule.label === undefined);
  return isSource ? null : `OAEP source: expected ${CKZ_DATA_SPECIFIED}, got ${parameters.source}`;
}

function pssMisfit(digest: DigestName, parameters: MechanismParameters): string | null {
  if (parameters.kind !== "pss") return "PSS parameters are missing";
  const { mechanism, mgf, size } = DIGESTS[digest];
  if (parameters.hash !== mechanism) return `PSS hash: expected ${digest}`;
  if (parameters.mgf !== mgf) return `PSS MGF: expected MGF1 with ${digest}`;
  if (parameters.saltLength !== BigInt(size)) return `PSS salt: expected ${size} bytes, got ${parameters.saltLength}`;
  return null;
}

function inputMisfit(scope: Scope, rule: MechanismRule, { operation, input }: DecisionRequest): string | null {
  if (input.kind === "pending") return null;
  if (operation === "unwrap") return unwrapMisfit(scope, input);
  if (operation !== "sign" || rule.type === "CKM_RSA_X_509") return blockMisfit(input);
  if (input.kind !== "data") return "data: expected a digest";
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

function unwrapMisfit({ unwraps = [] }: Scope, input: OperationInput): string | null {
  if (input.kind !== "wrapped") return "data: expected a wrapped key";
  const rule = unwraps.find(({ key }) => key === input.rule);
  if (rule === undefined) return input.rule === "" ? "a blob that no rule lets in" : `no key ${input.rule} is let in`;
  const got = `sha256:${sha256Hex(input.bytes)}`;
  if (rule.blob !== null && rule.blob !== got) return `blob of ${rule.key}: expected ${rule.blob}, got ${got}`;
  return blockMisfit({ ...input, kind: "block" });
}

/** RFC 8017, 7.1.2 step 1 and 5.1.2 step 1. Both are seen without the private key, so the answer tells nothing. */
function blockMisfit(input: OperationInput): string | null {
  if (input.kind !== "block") return "data: expected a block for an RSA key";
  const { bytes, modulus } = input;
  if (bytes.length !== modulus.length || modulus.length === 0)
    return `data: expected ${modulus.length} bytes, got ${bytes.length}`;
  const differing = bytes.findIndex((byte, index) => byte !== modulus[index]);
  const isBelow = differing >= 0 && (bytes[differing] ?? 0) < (modulus[differing] ?? 0);
  return isBelow ? null : "data: expected a number below the modulus";
}

/** RSASSA-PKCS1-v1_5 gets the DigestInfo, also when the agent made it (CKM_SHA256_RSA_PKCS). */
function takesDigestInfo(row: MechanismRow): boolean {
  return row.type === "CKM_RSA_PKCS" || row.type === "CKM_SHA256_RSA_PKCS";
}

function deny(step: DecisionStep, reason: string): Denial {
  return { allow: false, step, reason };
}
