import { createHash, type Hash } from "node:crypto";
import {
  concatBytes,
  DIGESTS,
  type MechanismParameters,
  type MechanismRow,
  type MechanismRule,
  type Policy,
  ruleDigest,
  ruleParameters,
  type Scope,
  scopeUse,
} from "../../policy/index.ts";
import type { CKR } from "./ckr.ts";
import { verifyEcdsaDigest } from "./ecdsa-verify.ts";
import type { BrokerKey } from "./key.ts";
import { mechanismByValue } from "./mechanisms.ts";
import { verifyRsaBlock, verifyRsaPkcs1, verifyRsaPss } from "./rsa-verify.ts";

/** A C_VerifyInit that was accepted. */
export interface Verification {
  readonly key: BrokerKey;
  readonly rule: MechanismRule;
  readonly mechanism: MechanismRow;
  /** Runs when the agent hashes; null for raw mechanisms. */
  readonly hash: Hash | null;
  /** C_VerifyUpdate was called. */
  multiPart: boolean;
}

export type VerificationStart =
  | { readonly kind: "started"; readonly verification: Verification }
  | {
      readonly kind: "refused";
      readonly code: "KEY_FUNCTION_NOT_PERMITTED" | "MECHANISM_INVALID" | "MECHANISM_PARAM_INVALID";
    };

/**
 * Verification with the public key of a key that signs, by the mechanisms and parameters that the scope signs with. It uses nothing that is
 * secret and nothing of the token, so it is no operation of the policy's: it is not decided, not counted and not recorded.
 */
export function startVerification(
  policy: Policy,
  scope: Scope,
  key: BrokerKey,
  asked: { readonly mechanism: bigint; readonly parameters: MechanismParameters },
): VerificationStart {
  if (scopeUse(policy, scope, key.name) !== "sign") return { kind: "refused", code: "KEY_FUNCTION_NOT_PERMITTED" };
  const mechanism = mechanismByValue(asked.mechanism);
  const rule = scope.mechanisms.find(({ type }) => type === mechanism?.type);
  const isPossible = mechanism?.keyType === key.keyType && mechanism.operations.includes("sign");
  if (mechanism === null || rule === undefined || !isPossible) return { kind: "refused", code: "MECHANISM_INVALID" };
  if (!sameParameters(ruleParameters(rule), asked.parameters))
    return { kind: "refused", code: "MECHANISM_PARAM_INVALID" };
  const hash = mechanism.hashes === null ? null : createHash(mechanism.hashes);
  return { kind: "started", verification: { key, rule, mechanism, hash, multiPart: false } };
}

/** @returns null for a good signature, otherwise the name of the CK_RV that says what is wrong */
export function finishVerification(
  verification: Verification,
  data: Uint8Array,
  signature: Uint8Array,
): (keyof typeof CKR & ("DATA_LEN_RANGE" | "SIGNATURE_LEN_RANGE" | "SIGNATURE_INVALID")) | null {
  const { key, rule, mechanism, hash } = verification;
  if (signature.length !== key.signatureLength) return "SIGNATURE_LEN_RANGE";
  if (mechanism.type === "CKM_RSA_X_509") return finished(verifyRsaBlock(key, data, signature));
  const name = ruleDigest(rule);
  const prefix = Uint8Array.from(DIGESTS[name].digestInfoPrefix);
  const isPkcs1 = mechanism.keyType === "rsa" && mechanism.parameters === "none";
  const made = hash === null ? null : Uint8Array.from(hash.update(data).digest());
  if (isPkcs1) return finished(verifyRsaPkcs1(key, made === null ? data : concatBytes(prefix, made), signature));
  const digest = made ?? data;
  if (digest.length !== DIGESTS[name].size) return "DATA_LEN_RANGE";
  if (mechanism.parameters === "pss") return finished(verifyRsaPss(key, name, digest, signature));
  return finished(verifyEcdsaDigest(key, digest, signature));
}

function finished(isGood: boolean): "SIGNATURE_INVALID" | null {
  return isGood ? null : "SIGNATURE_INVALID";
}

/** Signing mechanisms have no parameters or those of PSS. */
function sameParameters(rule: MechanismParameters, asked: MechanismParameters): boolean {
  if (rule.kind !== "pss" || asked.kind !== "pss") return rule.kind === "none" && asked.kind === "none";
  return rule.hash === asked.hash && rule.mgf === asked.mgf && rule.saltLength === asked.saltLength;
}
