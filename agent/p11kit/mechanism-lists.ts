import { type MechanismRow, mechanismRow } from "../../policy/index.ts";
import { scopeOf } from "../broker/scope-state.ts";
import { type Application, type CallHandler, failure, SLOT, values } from "./application.ts";
import { encodeUlongArray, encodeUlongs } from "./codec.ts";
import { DIGEST_MECHANISMS } from "./digest-calls.ts";
import { type ScopeKey, scopeKeys } from "./scope-keys.ts";

export const CKF_DECRYPT = 0x200n;
export const CKF_DIGEST = 0x400n;
export const CKF_SIGN = 0x800n;
export const CKF_VERIFY = 0x2000n;
const CKF_UNWRAP = 0x4_0000n;
/** CKF_EC_F_P, CKF_EC_NAMEDCURVE (CKF_EC_OID), CKF_EC_UNCOMPRESS. */
const CKF_EC = 0x0190_0000n;

/** Mechanisms that a client of version 0 cannot send; it would take them out of the list itself, but not out of the number. */
const NOT_FOR_VERSION_0: ReadonlySet<string> = new Set(["CKM_ECDSA_SHA256", "CKM_SHA256_RSA_PKCS_PSS"]);

/** What the scope allows and can do with its keys, then the agent's own hash functions. */
export const getMechanismList: CallHandler = (application, args) => {
  const slot = args.ulong("slot");
  const room = args.room("mechanisms");
  args.end();
  if (slot !== SLOT) return failure("SLOT_ID_INVALID");
  const listed = scopeMechanisms(application).map(({ row }) => row.value);
  return values(encodeUlongArray([...listed, ...DIGEST_MECHANISMS.keys()], room));
};

export const getMechanismInfo: CallHandler = (application, args) => {
  const slot = args.ulong("slot");
  const mechanism = args.ulong("mechanism");
  args.end();
  if (slot !== SLOT) return failure("SLOT_ID_INVALID");
  if (DIGEST_MECHANISMS.has(mechanism)) return values(encodeUlongs(0n, 0n, CKF_DIGEST));
  const found = scopeMechanisms(application).find(({ row }) => row.value === mechanism);
  if (found === undefined) return failure("MECHANISM_INVALID");
  const bits = found.keys.map(({ key }) => key.bits);
  const flags = found.keys.reduce((sum, { does }) => sum | flagsOf(does), 0n);
  const limits = [BigInt(Math.min(...bits)), BigInt(Math.max(...bits))];
  return values(encodeUlongs(...limits, found.row.keyType === "ec" ? flags | CKF_EC : flags));
};

/** The scope's mechanisms that this generation of clients can send, each with the keys that can be used by it. */
function scopeMechanisms({
  state,
  version,
}: Application): readonly { readonly row: MechanismRow; readonly keys: readonly ScopeKey[] }[] {
  const scope = scopeOf(state);
  if (scope === null) return [];
  const keys = scopeKeys(state, scope);
  return scope.mechanisms
    .filter(({ type }) => version > 0 || !NOT_FOR_VERSION_0.has(type))
    .map(({ type }) => mechanismRow(type))
    .map((row) => ({ row, keys: keys.filter(({ key, does }) => fits(row, key.keyType, does)) }))
    .filter(({ keys }) => keys.length > 0);
}

function fits(row: MechanismRow, keyType: MechanismRow["keyType"], does: ScopeKey["does"]): boolean {
  return row.keyType === keyType && does !== null && row.operations.includes(does);
}

/** The agent verifies what the token signs. */
function flagsOf(does: ScopeKey["does"]): bigint {
  switch (does) {
    case "sign":
      return CKF_SIGN | CKF_VERIFY;
    case "decrypt":
      return CKF_DECRYPT;
    case "unwrap":
      return CKF_UNWRAP;
    case null:
      return 0n;
  }
}
