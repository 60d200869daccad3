import { fromBase64, mechanismRow, type Scope, sha256, sha256Hex, type UnwrapRule } from "../../policy/index.ts";
import type { Peer } from "../identity.ts";
import { decryptMechanism } from "./decrypting.ts";
import { refusedByToken } from "./gone.ts";
import { type BrokerKey, brokerKey } from "./key.ts";
import {
  admitOperation,
  countAnswer,
  refuseBusy,
  reservePlaces,
  type StartedOperation,
  withhold,
} from "./operation.ts";
import { type Refused, refused } from "./refused.ts";
import { type ScopeState, scopeOf } from "./scope-state.ts";

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
 * Takes a place at the token, decides with the wrapped key, spends, records and asks the token, in this order. The same blob again, while
 * its key is there, is recorded and answered with that key: a workload that starts anew does not know what it did before.
 */
export async function finishUnwrapping(
  state: ScopeState,
  peer: Peer | null,
  started: StartedOperation,
  { bytes, rule: name }: WrappedKey,
): Promise<UnwrapResult> {
  using places = reservePlaces(state, started);
  if (places === null) return refuseBusy(state, peer, started);
  const modulus = started.key.modulus ?? new Uint8Array();
  const begun = state.now();
  const refusal = await admitOperation(state, peer, started, { kind: "wrapped", bytes, modulus, rule: name });
  if (refusal !== null) return refusal;
  const rule = scopeOf(state)?.unwraps?.find(({ key }) => key === name);
  // Narrowed away between the record and here: nothing is asked.
  if (rule === undefined) {
    state.meter.decided(state.name, "caller");
    return refused("FUNCTION_REJECTED", "caller");
  }
  const blob = `sha256:${sha256Hex(bytes)}`;
  const known = state.keys.arrival(state.name, name);
  if (known !== null && known.blob === blob) return { kind: "arrived", key: known.key };
  const result = await askToken(state, started, rule, bytes);
  countAnswer(state, "unwrap", begun, result);
  if (result.kind === "refused") return result;
  if (state.live.isFrozen(state.name)) return withhold(state, peer, started);
  state.keys.arrive(state.name, { key: result.key, blob });
  return result; // the places were held until the token had answered
}

async function askToken(
  state: ScopeState,
  started: StartedOperation,
  rule: UnwrapRule,
  wrapped: Uint8Array,
): Promise<UnwrapResult> {
  const { does, where, label } = rule;
  const key = arrivingKey(state.name, rule);
  try {
    await state.token.unwrap({
      ...{ key: started.key.place, mechanism: decryptMechanism(started), wrapped },
      ...{ place: key.place, spki: key.spki, id: key.id, keyType: key.keyType, does, where, label },
      allowed: allowedAtToken(rule),
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
