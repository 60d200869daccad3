import { createHash, type Hash } from "node:crypto";
import { concatBytes, DIGESTS, type OperationInput, ruleDigest } from "../../policy/index.ts";
import type { Peer } from "../identity.ts";
import { refusedByToken } from "./gone.ts";
import type { BrokerKey } from "./key.ts";
import {
  admitOperation,
  countAnswer,
  type OperationResult,
  refuseBusy,
  reservePlaces,
  type StartedOperation,
} from "./operation.ts";
import { refused } from "./refused.ts";
import { verifyRsaBlock, verifyRsaPkcs1, verifyRsaPss } from "./rsa-verify.ts";
import type { ScopeState } from "./scope-state.ts";
import type { SignMechanism } from "./token.ts";
import { Question, releaseResult } from "./withholding.ts";

/** A signature that was allowed so far. */
export interface SignOperation {
  readonly started: StartedOperation;
  /** Runs when the agent hashes; null for raw mechanisms. */
  readonly hash: Hash | null;
  /** A part of the data came already. */
  multiPart: boolean;
}

export function signOperation(started: StartedOperation): SignOperation {
  const { hashes } = started.mechanism;
  return { started, hash: hashes === null ? null : createHash(hashes), multiPart: false };
}

/** Takes a place at the token, decides with the data, spends, records, looks once more, signs and verifies, in this order. */
export async function finishSigning(
  state: ScopeState,
  peer: Peer | null,
  operation: SignOperation,
  data: Uint8Array,
): Promise<OperationResult> {
  const { started } = operation;
  const places = reservePlaces(state, started);
  if (places === null) return refuseBusy(state, peer, started);
  try {
    const bytes = tokenInput(operation, data);
    const begun = state.now();
    const admitted = await admitOperation(state, peer, started, decisionInput(started, bytes));
    if (admitted.kind === "refused") return admitted;
    const question = new Question(state, peer, admitted);
    if (!question.stillAllowed()) return await question.refuse();
    const result = await askToken(state, started, bytes, question);
    if (question.isWithheld) return await question.refuse();
    countAnswer(state, "sign", begun, result);
    return releaseResult(state, peer, admitted, result);
  } finally {
    places[Symbol.dispose](); // not `using`, which costs more than the decision
  }
}

async function askToken(
  state: ScopeState,
  started: StartedOperation,
  data: Uint8Array,
  question: Question,
): Promise<OperationResult> {
  const { key } = started;
  const mechanism = tokenMechanism(started);
  try {
    const bytes = await state.token.sign({ key: key.place, mechanism, data }, question);
    const good = bytes.length === key.signatureLength && isGoodSignature(key, started, mechanism, data, bytes);
    if (good) return { kind: "result", bytes };
  } catch (error) {
    // The shim's own report says why; the caller gets the one code.
    return refusedByToken(state, key, error, "DEVICE_ERROR");
  }
  return refused("DEVICE_ERROR", "token");
}

function isGoodSignature(
  key: BrokerKey,
  { rule }: StartedOperation,
  mechanism: SignMechanism,
  data: Uint8Array,
  signature: Uint8Array,
): boolean {
  switch (mechanism.type) {
    case "CKM_ECDSA":
      // Node can verify over a message only, and here is a digest that somebody else made.
      return true;
    case "CKM_RSA_PKCS":
      return verifyRsaPkcs1(key, data, signature);
    case "CKM_RSA_PKCS_PSS":
      return verifyRsaPss(key, ruleDigest(rule), data, signature);
    case "CKM_RSA_X_509":
      return verifyRsaBlock(key, data, signature);
  }
}

function tokenMechanism({ mechanism, parameters }: StartedOperation): SignMechanism {
  if (mechanism.keyType === "ec") return { type: "CKM_ECDSA", value: 0x1041n, pss: null };
  if (mechanism.type === "CKM_RSA_X_509") return { type: "CKM_RSA_X_509", value: 0x3n, pss: null };
  if (parameters.kind !== "pss") return { type: "CKM_RSA_PKCS", value: 0x1n, pss: null };
  const { hash, mgf, saltLength } = parameters;
  return { type: "CKM_RSA_PKCS_PSS", value: 0xdn, pss: { hash, mgf, saltLength } };
}

function decisionInput({ mechanism, key }: StartedOperation, bytes: Uint8Array): OperationInput {
  return mechanism.type === "CKM_RSA_X_509"
    ? { kind: "block", bytes, modulus: key.modulus ?? new Uint8Array() }
    : { kind: "data", bytes };
}

/** What the token gets: raw data, or the digest made here, for RSASSA-PKCS1-v1_5 inside its DigestInfo. */
function tokenInput({ started: { mechanism }, hash }: SignOperation, data: Uint8Array): Uint8Array {
  if (hash === null || mechanism.hashes === null) return data;
  const digest = Uint8Array.from(hash.update(data).digest());
  if (mechanism.keyType === "ec" || mechanism.parameters === "pss") return digest;
  return concatBytes(Uint8Array.from(DIGESTS[mechanism.hashes].digestInfoPrefix), digest);
}
