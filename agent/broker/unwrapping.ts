import {
  fromBase64,
  isValidAt,
  mechanismRow,
  type Scope,
  sha256,
  sha256Hex,
  type UnwrapRule,
} from "../../policy/index.ts";
import type { Peer } from "../identity.ts";
import { decryptMechanism, reserveFailure } from "./decrypting.ts";
import { refusedByToken } from "./gone.ts";
import { type BrokerKey, brokerKey } from "./key.ts";
import {
  type AdmittedOperation,
  admitOperation,
  countAnswer,
  enterScope,
  refuseBusy,
  type StartedOperation,
} from "./operation.ts";
import type { Refused } from "./refused.ts";
import { type ScopeState, scopeOf } from "./scope-state.ts";
import type { UnwrapKeyRequest } from "./token.ts";
import { Question, takenAway, withhold } from "./withholding.ts";

export interface WrappedKey {
  readonly bytes: Uint8Array;
  /** The name in the scope's `unwraps` by which it is to come in. */
  readonly rule: string;
}

export type UnwrapResult = { readonly kind: "arrived"; readonly key: BrokerKey } | Refused;

/**
 * The rule that a wrapped key fits: the one that names the blob, else the one of any blob that has this label, else the only one of any
 * blob. Empty, which fits nothing, when there is none.
 */
export function ruleFor({ unwraps = [] }: Pick<Scope, "unwraps">, bytes: Uint8Array, label: string | null): string {
  const blob = `sha256:${sha256Hex(bytes)}`;
  const open = unwraps.filter((rule) => rule.blob === null);
  const [only] = open.length === 1 ? open : [];
  const found = unwraps.find((rule) => rule.blob === blob) ?? open.find((rule) => rule.label === label) ?? only;
  return found?.key ?? "";
}

/**
 * Takes a place among the scope's operations, one in the key's failure budget (a blob that is refused tells something of it) and one at the
 * token, decides with the wrapped key, spends, records, looks once more and asks the token, in this order. The same blob again, while its key
 * is there, is recorded and answered with that key: a workload that starts anew does not know what it did before.
 */
export async function finishUnwrapping(
  state: ScopeState,
  peer: Peer | null,
  started: StartedOperation,
  wrapped: WrappedKey,
): Promise<UnwrapResult> {
  using own = enterScope(state);
  if (own === null) return await refuseBusy(state, peer, started);
  const failure = await reserveFailure(state, started);
  let failed = false;
  try {
    using place = state.token.reserve(started.key.place);
    if (place === null) return await refuseBusy(state, peer, started);
    const modulus = started.key.modulus ?? new Uint8Array();
    const input = { kind: "wrapped", modulus, ...wrapped } as const;
    const admitted = await admitOperation(state, peer, started, input, failure === null ? 0 : 1);
    if (admitted.kind === "refused") return admitted;
    const question = new Question(state, peer, admitted);
    if (!question.stillAllowed()) return await question.refuse();
    failed = true;
    const blob = `sha256:${sha256Hex(wrapped.bytes)}`;
    const result = await letIn(state, started, { admitted, question }, { ...wrapped, blob });
    failed = !question.isWithheld;
    if (question.isWithheld) return await question.refuse();
    failed = result.kind === "refused";
    return await keep(state, peer, admitted, { result, blob });
  } finally {
    failure?.settle(failed);
  }
}

async function letIn(
  state: ScopeState,
  started: StartedOperation,
  { admitted, question }: { readonly admitted: AdmittedOperation; readonly question: Question },
  { bytes, rule: name, blob }: WrappedKey & { readonly blob: string },
): Promise<UnwrapResult> {
  const rule = scopeOf(state)?.unwraps?.find(({ key }) => key === name);
  if (rule === undefined) throw new TypeError(`unwrap ${name}: allowed by no rule`);
  const begun = state.now();
  const known = state.keys.arrival(state.name, name);
  if (known !== null && known.blob === blob) return { kind: "arrived", key: known.key };
  let isAsked = false; // once the token is, what is taken away is its result
  let isComingIn = true;
  const stillAllowed = (): boolean => {
    isAsked ||= question.stillAllowed();
    return isAsked && stillLets(state, rule, blob) && !(isComingIn && takenAway(state, admitted) !== null);
  };
  const result = await askToken(state, started, rule, { bytes, blob, stillAllowed });
  isComingIn = false;
  if (!question.isWithheld) countAnswer(state, "unwrap", begun, result);
  return result;
}

/** A key that is withheld stays where the token has it, and nothing leads to it. */
async function keep(
  state: ScopeState,
  peer: Peer | null,
  admitted: AdmittedOperation,
  { result, blob }: { readonly result: UnwrapResult; readonly blob: string },
): Promise<UnwrapResult> {
  const withheld = withhold(state, peer, admitted);
  if (withheld !== null) return withheld;
  if (result.kind === "arrived") state.keys.arrive(state.name, { key: result.key, blob });
  return result;
}

/** Also for a takeover, long after the decision and whoever asked then: the policy in force still lets this blob in as this key, now. */
function stillLets(state: ScopeState, { key, publicKey }: UnwrapRule, blob: string): boolean {
  const scope = scopeOf(state);
  const rule = scope?.unwraps?.find((candidate) => candidate.key === key);
  if (scope === null || rule === undefined || state.live.isFrozen(state.name)) return false;
  const isSame = rule.publicKey === publicKey && (rule.blob === null || rule.blob === blob);
  return isSame && isValidAt(scope, state.wallClock());
}

async function askToken(
  state: ScopeState,
  started: StartedOperation,
  rule: UnwrapRule,
  { bytes: wrapped, ...arrival }: { readonly bytes: Uint8Array } & Pick<UnwrapKeyRequest, "blob" | "stillAllowed">,
): Promise<UnwrapResult> {
  const { does, where, label } = rule;
  const key = arrivingKey(state.name, rule);
  try {
    await state.token.unwrap({
      ...{ key: started.key.place, mechanism: decryptMechanism(started), wrapped },
      ...{ place: key.place, spki: key.spki, id: key.id, keyType: key.keyType, does, where, label },
      ...{ allowed: allowedAtToken(rule), ...arrival },
    });
    return { kind: "arrived", key };
  } catch (error) {
    return refusedByToken(state, started.key, error, "WRAPPED_KEY_INVALID");
  }
}

/** Its CKA_ID is the digest of its public key: no other object has it. */
function arrivingKey(scope: string, { key: name, publicKey, label }: UnwrapRule): BrokerKey {
  const spki = fromBase64(publicKey);
  const key = brokerKey(name, { spki, id: sha256(spki), label }, `sha256:${sha256Hex(spki)}`);
  return { ...key, place: `${scope}/${name}` };
}

/** The token never hashes: what the policy calls CKM_ECDSA_SHA256 is CKM_ECDSA there. */
const RAW = { none: { ec: 0x1041n, rsa: 0x1n }, pss: { ec: 0xdn, rsa: 0xdn }, oaep: { ec: 0x9n, rsa: 0x9n } } as const;

function allowedAtToken({ mechanisms }: UnwrapRule): readonly bigint[] {
  const rows = mechanisms.map(mechanismRow);
  return [...new Set(rows.map(({ parameters, keyType }) => RAW[parameters][keyType]))];
}
