import { failuresOf, OAEP_DIGESTS, oaepDigest } from "../../policy/index.ts";
import type { Peer } from "../identity.ts";
import type { Reservation } from "./failure-budget.ts";
import { refusedByToken } from "./gone.ts";
import {
  admitOperation,
  countAnswer,
  enterScope,
  type OperationResult,
  refuseBusy,
  type StartedOperation,
} from "./operation.ts";
import { refused } from "./refused.ts";
import { verifyRsaBlock } from "./rsa-verify.ts";
import { type ScopeState, scopeOf } from "./scope-state.ts";
import type { DecryptMechanism } from "./token.ts";
import { Question, releaseResult } from "./withholding.ts";

const PKCS1_OVERHEAD = 11;

/** The longest plaintext that a ciphertext of this key can have (RFC 8017, 7.1.1 and 7.2.1): the answer to a length query. */
export function plaintextRoom({ mechanism, rule, key }: StartedOperation): number {
  const length = key.modulus?.length ?? 0;
  if (mechanism.parameters === "oaep") return Math.max(0, length - 2 * OAEP_DIGESTS[oaepDigest(rule)].size - 2);
  return mechanism.type === "CKM_RSA_X_509" ? length : Math.max(0, length - PKCS1_OVERHEAD);
}

/**
 * Takes a place among the scope's operations, one in the key's failure budget and one at the token, decides with the ciphertext, spends the
 * rate, records, looks once more and asks the token, in this order. What waits for the failure budget so holds a place of its own scope's,
 * and none at the token: that one would be taken from everybody else's keys. The caller wipes the plaintext. The time that the token takes
 * is passed on to the caller as it is.
 */
export async function finishDecryption(
  state: ScopeState,
  peer: Peer | null,
  started: StartedOperation,
  ciphertext: Uint8Array,
): Promise<OperationResult> {
  using own = enterScope(state);
  if (own === null) return await refuseBusy(state, peer, started);
  const failure = await reserveFailure(state, started);
  let failed = false;
  try {
    using place = state.token.reserve(started.key.place);
    if (place === null) return await refuseBusy(state, peer, started);
    const begun = state.now();
    const input = { kind: "block", bytes: ciphertext, modulus: started.key.modulus ?? new Uint8Array() } as const;
    const admitted = await admitOperation(state, peer, started, input, failure === null ? 0 : 1);
    if (admitted.kind === "refused") return admitted;
    const question = new Question(state, peer, admitted);
    if (!question.stillAllowed()) return await question.refuse();
    failed = true;
    const result = await askToken(state, started, ciphertext, question);
    failed = !question.isWithheld;
    if (question.isWithheld) return await question.refuse();
    countAnswer(state, "decrypt", begun, result);
    failed = result.kind === "refused";
    return await releaseResult(state, peer, admitted, result);
  } finally {
    failure?.settle(failed);
  }
}

/** Null when the budget is empty. */
export async function reserveFailure(state: ScopeState, { key }: StartedOperation): Promise<Reservation | null> {
  const scope = scopeOf(state);
  return scope === null ? null : state.failures.of(key.identity, failuresOf(scope)).reserve();
}

/**
 * One answer for whatever the token has against a ciphertext. Tokens give different codes for a leading byte that is not zero, for a
 * wrong label hash and for a missing separator: an attacker who can tell these apart decrypts (Manger, CRYPTO 2001).
 */
async function askToken(
  state: ScopeState,
  started: StartedOperation,
  data: Uint8Array,
  question: Question,
): Promise<OperationResult> {
  const { key } = started;
  try {
    const bytes = await state.token.decrypt({ key: key.place, mechanism: decryptMechanism(started), data }, question);
    if (isGoodPlaintext(started, data, bytes)) return { kind: "result", bytes };
    bytes.fill(0);
    return refused("ENCRYPTED_DATA_INVALID", "token");
  } catch (error) {
    return refusedByToken(state, key, error, "ENCRYPTED_DATA_INVALID");
  }
}

/** An empty plaintext is one, where there is a padding. A raw one is a whole block, and the public key gives the ciphertext back. */
function isGoodPlaintext(started: StartedOperation, data: Uint8Array, plaintext: Uint8Array): boolean {
  if (started.mechanism.type === "CKM_RSA_X_509") return verifyRsaBlock(started.key, data, plaintext);
  return plaintext.length <= plaintextRoom(started);
}

/** How the token is asked to decrypt, or to unwrap. */
export function decryptMechanism({
  mechanism,
  parameters,
}: Pick<StartedOperation, "mechanism" | "parameters">): DecryptMechanism {
  if (mechanism.type === "CKM_RSA_PKCS_OAEP" && parameters.kind === "oaep") {
    const { hash, mgf, label } = parameters;
    return { type: "CKM_RSA_PKCS_OAEP", value: 0x9n, oaep: { hash, mgf, label } };
  }
  if (mechanism.type === "CKM_RSA_X_509") return { type: "CKM_RSA_X_509", value: 0x3n, oaep: null };
  if (mechanism.type === "CKM_RSA_PKCS") return { type: "CKM_RSA_PKCS", value: 0x1n, oaep: null };
  throw new TypeError(`mechanism ${mechanism.type}: does not decrypt`);
}
