import { join, Reader, sized, text, u8, u32 } from "./bytes.ts";
import { protocolError, RefusedError } from "./errors.ts";
import {
  DOES,
  type Does,
  FORMS,
  type Form,
  HEAD,
  MAGIC,
  MAX_IN_FLIGHT,
  MAX_LENGTH,
  MECHANISMS,
  type Mechanism,
  nameOf,
  OPS,
  REASONS,
  VERSION,
} from "./protocol.ts";

export interface KeyMechanism {
  readonly type: Mechanism;
  readonly takes: Form;
  /** The digest that the policy fixes, e.g. `sha256`; null where there is none. */
  readonly digest: string | null;
  /** The OAEP label that the policy fixes; empty for none. */
  readonly label: Uint8Array;
}

/** A key as the scope shows it. */
export interface Key {
  /** The policy's name. */
  readonly name: string;
  readonly does: Does;
  /** SubjectPublicKeyInfo, DER. The agent says so; who has to be sure compares its digest with the policy's. */
  readonly publicKey: Uint8Array;
  /** Those that this client knows. */
  readonly mechanisms: readonly KeyMechanism[];
}

export interface Hello {
  readonly scope: string;
  /** Open from the start; 0 for none. */
  readonly session: number;
  /** The highest `length` of a request. */
  readonly maxLength: number;
  /** Operations at once. */
  readonly inFlight: number;
  readonly sessions: number;
  readonly keys: readonly Key[];
}

export interface Reply {
  readonly id: number;
  /** 0: done. */
  readonly reason: number;
  /** Memory of its own. */
  readonly payload: Uint8Array;
}

export function encodeClientGreeting(): Uint8Array {
  return join(new TextEncoder().encode(MAGIC), u8(VERSION));
}

export function encodeRequest(id: number, op: keyof typeof OPS, payload: Uint8Array): Uint8Array {
  return join(u32(HEAD + payload.length), u32(id), u8(OPS[op]), payload);
}

/** What SIGN, DECRYPT and UNWRAP name before their input, without the session. */
export function encodeUse(key: string, mechanism: Mechanism): Uint8Array {
  const type = MECHANISMS[mechanism];
  if (type === undefined) throw new TypeError(`mechanism: expected one of ${Object.keys(MECHANISMS).join(", ")}`);
  return join(text(key), u32(type));
}

export function encodeInput(input: Uint8Array): Uint8Array {
  return sized(input);
}

export function encodeForm(form: Form): Uint8Array {
  return u8(FORMS[form]);
}

/** @throws ClientError `ERR_CLIENT_PROTOCOL` */
export function readHello(payload: Uint8Array): Hello {
  const reader = new Reader(payload);
  const scope = reader.text();
  const session = reader.u32();
  const maxLength = reader.u32();
  const inFlight = reader.u16();
  const sessions = reader.u16();
  if (maxLength < HEAD || maxLength > MAX_LENGTH) throw protocolError(`highest length: got ${maxLength}`);
  if (inFlight < 1 || inFlight > MAX_IN_FLIGHT) throw protocolError(`inFlight: got ${inFlight}`);
  const keys = Array.from({ length: reader.u8() }, () => readKey(reader));
  reader.end();
  return { scope, session, maxLength, inFlight, sessions, keys };
}

function readKey(reader: Reader): Key {
  const name = reader.text();
  const does = nameOf(DOES, reader.u8());
  if (does === null) throw protocolError("does: expected 1 to 3");
  const publicKey = reader.bytes();
  const mechanisms = Array.from({ length: reader.u8() }, () => readMechanism(reader)).filter((known) => known !== null);
  return { name, does, publicKey, mechanisms };
}

/** Null for a mechanism of a later version's. */
function readMechanism(reader: Reader): KeyMechanism | null {
  const type = nameOf(MECHANISMS, reader.u32());
  const takes = nameOf(FORMS, reader.u8());
  const digest = reader.text();
  const label = reader.bytes();
  if (takes === null) throw protocolError("takes: expected 1 to 3");
  return type === null ? null : { type, takes, digest: digest === "" ? null : digest, label };
}

/** @throws ClientError `ERR_CLIENT_PROTOCOL` for a payload that its reason does not have */
export function readRefusal({ reason, payload }: Pick<Reply, "reason" | "payload">): RefusedError {
  const name = nameOf(REASONS, reason);
  if (name === null) return new RefusedError("unknown");
  const reader = new Reader(payload);
  const details = {
    retryAfter: name === "rate" ? reader.u32() : null,
    approval: name === "approval-needed" ? reader.text() : null,
  };
  reader.end();
  return new RefusedError(name, details);
}

/** @throws ClientError `ERR_CLIENT_PROTOCOL` */
export function readSession(payload: Uint8Array): number {
  const reader = new Reader(payload);
  const session = reader.u32();
  reader.end();
  if (session === 0) throw protocolError("session: got 0");
  return session;
}
