import {
  type DecisionRequest,
  type MechanismParameters,
  type OperationInput,
  ruleDigest,
  ruleParameters,
} from "./decide.ts";
import { findScope } from "./find-scope.ts";
import { DIGESTS, mechanismRow, type Operation } from "./mechanisms.ts";
import type { MechanismRule, Policy, Scope } from "./policy.ts";

/** Bytes of the stand-in modulus: that of RSA-2048. */
const MODULUS = 256;

/** The rule of a scope that a request is about, if there is one. */
export function ruleFor(
  policy: Policy,
  { scope, mechanism }: Pick<DecisionRequest, "scope" | "mechanism">,
): MechanismRule | null {
  return findScope(policy, scope)?.mechanisms.find(({ type }) => type === mechanism) ?? null;
}

/** For questions about a rule: the parameters that it wants. None where there is no rule. */
export function fittingParameters(rule: MechanismRule | null): MechanismParameters {
  return rule === null ? { kind: "none" } : ruleParameters(rule);
}

/**
 * For questions about a rule: data that it takes. A wrapped key whose digest the policy pins cannot be made up: there it is `pending`, which
 * asks about the rule without the data, and without approvals of single operations.
 */
export function fittingInput(scope: Scope | null, rule: MechanismRule | null, operation: Operation): OperationInput {
  if (scope === null || rule === null) return { kind: "pending" };
  const block = { bytes: new Uint8Array(MODULUS), modulus: new Uint8Array(MODULUS).fill(0xff) };
  if (operation === "unwrap") {
    const open = scope.unwraps?.find(({ blob }) => blob === null);
    return open === undefined ? { kind: "pending" } : { kind: "wrapped", ...block, rule: open.key };
  }
  if (operation === "decrypt" || rule.type === "CKM_RSA_X_509") return { kind: "block", ...block };
  // A policy that was parsed has a digest here; one for another operation need not.
  if (!mechanismRow(rule.type).operations.includes("sign")) return { kind: "pending" };
  return { kind: "data", bytes: digestData(rule, new Uint8Array(DIGESTS[ruleDigest(rule)].size)) };
}

/** A digest as the mechanism of a signing rule takes it: RSASSA-PKCS1-v1_5 gets a DigestInfo. */
export function digestData(rule: MechanismRule, digest: Uint8Array): Uint8Array {
  if (rule.type !== "CKM_RSA_PKCS" && rule.type !== "CKM_SHA256_RSA_PKCS") return digest;
  return Uint8Array.from([...DIGESTS[ruleDigest(rule)].digestInfoPrefix, ...digest]);
}
