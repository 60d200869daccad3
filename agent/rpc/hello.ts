import {
  ByteWriter,
  fromHex,
  type MechanismRule,
  mechanismRow,
  type Operation,
  scopeUse,
  takesDigest,
  utf8,
} from "../../policy/index.ts";
import type { BrokerKey } from "../broker/key.ts";
import { type ScopeState, scopeOf } from "../broker/scope-state.ts";
import { DOES, FORMS, type Form, MAX_IN_FLIGHT, MAX_LENGTH } from "../client/protocol.ts";
import { MAX_SESSIONS } from "./sessions.ts";

/** Requests that one connection may have in work. A scope may say less. */
const IN_FLIGHT = 64;

export function inFlightOf(state: ScopeState): number {
  return Math.min(scopeOf(state)?.inFlight ?? MAX_IN_FLIGHT, IN_FLIGHT);
}

/**
 * What the scope's caller may know of it: keys, what each does, and by which mechanisms. As the policy in force says now.
 * @param session the one that is open from the start; 0 for none
 */
export function encodeHello(state: ScopeState, session: number): Uint8Array {
  const scope = scopeOf(state);
  const writer = text(new ByteWriter(), state.name).u32(session).u32(MAX_LENGTH).u16(inFlightOf(state));
  const keys = (scope?.keys ?? []).flatMap((name) => {
    const key = scope === null ? null : state.keys.find(scope, name);
    const does = scope === null ? null : scopeUse(state.live.current, scope, name);
    return key === null || does === null ? [] : [{ key, does }];
  });
  writer.u16(MAX_SESSIONS).u8(keys.length);
  for (const { key, does } of keys) writeKey(writer, key, does, rulesOf(scope?.mechanisms ?? [], key, does));
  return writer.finish();
}

/** The form in which a mechanism takes its input. */
export function formOf(operation: Operation, type: MechanismRule["type"]): Form {
  if (operation !== "sign" || type === "CKM_RSA_X_509") return "block";
  return mechanismRow(type).hashes === null ? "digest" : "message";
}

function rulesOf(rules: readonly MechanismRule[], { keyType }: BrokerKey, does: Operation): readonly MechanismRule[] {
  return rules.filter(({ type }) => {
    const row = mechanismRow(type);
    return row.keyType === keyType && row.operations.includes(does);
  });
}

function writeKey(writer: ByteWriter, key: BrokerKey, does: Operation, rules: readonly MechanismRule[]): void {
  text(writer, key.name).u8(DOES[does]).sized32(key.spki).u8(rules.length);
  for (const rule of rules) {
    const { hashes, value } = mechanismRow(rule.type);
    writer.u32(Number(value)).u8(FORMS[formOf(does, rule.type)]);
    text(writer, takesDigest(rule.type, does) ? (hashes ?? rule.digest ?? "") : "");
    writer.sized32(fromHex(rule.label ?? ""));
  }
}

function text(writer: ByteWriter, value: string): ByteWriter {
  return writer.u8(value.length).bytes(utf8(value));
}
