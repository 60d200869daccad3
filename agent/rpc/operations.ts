import {
  concatBytes,
  DIGESTS,
  type MechanismParameters,
  mechanismRow,
  ruleDigest,
  ruleParameters,
} from "../../policy/index.ts";
import { finishDecryption } from "../broker/decrypting.ts";
import { type StartedOperation, startOperation } from "../broker/operation.ts";
import { refuseParameters } from "../broker/refusing.ts";
import { type ScopeState, scopeOf } from "../broker/scope-state.ts";
import { finishSigning, signOperation } from "../broker/signing.ts";
import { finishUnwrapping } from "../broker/unwrapping.ts";
import type { Peer } from "../identity.ts";
import { type Answer, done, refusedAnswer } from "./answer.ts";
import { formOf } from "./hello.ts";
import type { OperationRequest, SignRequest } from "./requests.ts";

/** One operation from its request to its answer. The session has been looked at. */
export async function answerOperation(
  state: ScopeState,
  peer: Peer | null,
  request: OperationRequest,
): Promise<Answer> {
  const { kind: operation, key, mechanism } = request;
  const started = await startOperation(state, peer, {
    operation,
    key,
    mechanism: BigInt(mechanism),
    parameters: fixedParameters(state, mechanism),
  });
  if (started.kind === "refused") return refusedAnswer(state, key, started);
  if (request.kind === "unwrap") {
    const result = await finishUnwrapping(state, peer, started, { bytes: request.input, rule: request.arriving });
    return result.kind === "refused" ? refusedAnswer(state, key, result) : done(new Uint8Array());
  }
  if (request.kind === "decrypt") {
    const result = await finishDecryption(state, peer, started, request.input);
    return result.kind === "refused" ? refusedAnswer(state, key, result) : done(result.bytes);
  }
  const input = tokenData(started, request);
  if (input === null) {
    const reason = `input in the form ${request.form}, which ${started.mechanism.type} does not take`;
    return refusedAnswer(state, key, await refuseParameters(state, peer, started, { code: "DATA_LEN_RANGE", reason }));
  }
  const result = await finishSigning(state, peer, signOperation(started), input);
  return result.kind === "refused" ? refusedAnswer(state, key, result) : done(result.bytes);
}

/** What the rule fixes is not asked for: hash, MGF, salt length and label are the only ones that it allows. */
function fixedParameters(state: ScopeState, mechanism: number): MechanismParameters {
  const rule = scopeOf(state)?.mechanisms.find(({ type }) => mechanismRow(type).value === BigInt(mechanism));
  return rule === undefined ? { kind: "none" } : ruleParameters(rule);
}

/** What C_Sign would be given; null for a form that the mechanism does not take. */
function tokenData({ mechanism, rule }: StartedOperation, { form, input }: SignRequest): Uint8Array | null {
  if (form !== formOf("sign", mechanism.type)) return null;
  if (mechanism.type !== "CKM_RSA_PKCS") return input;
  return concatBytes(Uint8Array.from(DIGESTS[ruleDigest(rule)].digestInfoPrefix), input);
}
