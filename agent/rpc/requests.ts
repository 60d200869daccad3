import { ByteReader } from "../../policy/index.ts";
import { FORMS, type Form, MAX_LENGTH, nameOf, OPS } from "../client/protocol.ts";
import { type Frame, malformed } from "./frames.ts";

/** What SIGN, DECRYPT and UNWRAP have in common. */
interface Use {
  readonly session: number;
  /** As the policy names it. */
  readonly key: string;
  /** CK_MECHANISM_TYPE */
  readonly mechanism: number;
  /** A digest, a message or a block. */
  readonly input: Uint8Array;
}
export type SignRequest = Use & { readonly kind: "sign"; readonly form: Form };
export type DecryptRequest = Use & { readonly kind: "decrypt" };
/** `input` is the wrapped key, `arriving` the name that the policy gives to what comes out. */
export type UnwrapRequest = Use & { readonly kind: "unwrap"; readonly arriving: string };
/** What uses a key, and takes a place in `inFlight`. */
export type OperationRequest = SignRequest | DecryptRequest | UnwrapRequest;

export type Request =
  | OperationRequest
  | { readonly kind: "hello" | "open" | "ping" }
  | { readonly kind: "close"; readonly session: number }
  | { readonly kind: "cancel"; readonly id: number }
  /** An op that is not in the table; a newer client can go on without it. */
  | { readonly kind: "unknown" };

export function isOperation(request: Request): request is OperationRequest {
  return request.kind === "sign" || request.kind === "decrypt" || request.kind === "unwrap";
}

/**
 * Reads a request's payload.
 * @throws a typed error for malformed bytes; the connection is to be closed
 */
export function parseRequest({ op, payload }: Pick<Frame, "op" | "payload">): Request {
  const kind = nameOf(OPS, op);
  if (kind === null) return { kind: "unknown" };
  const reader = new ByteReader(payload, kind);
  const request = readRequest(kind, reader);
  reader.end();
  return request;
}

function readRequest(kind: keyof typeof OPS, reader: ByteReader): Request {
  switch (kind) {
    case "hello":
    case "open":
    case "ping":
      return { kind };
    case "close":
      return { kind, session: reader.u32("session") };
    case "cancel":
      return { kind, id: reader.u32("id") };
    case "sign":
      return { kind, ...readPlace(reader), form: readForm(reader), input: readInput(reader) };
    case "decrypt":
      return { kind, ...readPlace(reader), input: readInput(reader) };
    case "unwrap":
      return { kind, ...readPlace(reader), arriving: readText(reader, "arriving key"), input: readInput(reader) };
  }
}

function readPlace(reader: ByteReader): Pick<Use, "session" | "key" | "mechanism"> {
  const session = reader.u32("session");
  return { session, key: readText(reader, "key"), mechanism: reader.u32("mechanism") };
}

/** Printable ASCII: these texts stand in the audit log. */
function readText(reader: ByteReader, field: string): string {
  const text = String.fromCharCode(...reader.bytes(reader.u8(`${field} length`), field));
  if (!/^[ -~]*$/.test(text)) throw malformed(field, "printable ASCII", "another character");
  return text;
}

function readForm(reader: ByteReader): Form {
  const value = reader.u8("form");
  const form = nameOf(FORMS, value);
  if (form === null) throw malformed("form", "1 to 3", `${value}`);
  return form;
}

function readInput(reader: ByteReader): Uint8Array {
  return reader.sized32("input", MAX_LENGTH);
}
