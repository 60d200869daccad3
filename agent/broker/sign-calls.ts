import { type Answer, type Application, type CallHandler, failure, OK, type Session, values } from "./application.ts";
import { CKR } from "./calls.ts";
import { type ByteArray, encodeByteArray, encodeLength, NO_VALUES } from "./codec.ts";
import { finishSigning, type SignOperation, startSigning } from "./signing.ts";

export const signInit: CallHandler = async (application, args) => {
  const handle = args.ulong("session");
  const request = args.mechanismAndKey();
  args.end();
  const session = application.sessions.get(handle);
  if (session === undefined) return failure("SESSION_HANDLE_INVALID");
  if (request.kind === "cancel") {
    session.sign = null;
    return OK;
  }
  if (session.sign !== null) return failure("OPERATION_ACTIVE");
  const object = application.objects.find((candidate) => candidate.handle === request.key) ?? null;
  const start = await startSigning(application.state, application.peer, object, request.mechanism, request.parameters);
  if (start.kind === "refused") return { kind: "error", rv: start.rv };
  session.sign = start.operation;
  return OK;
};

export const sign: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const data = bytesOf(args.byteArray("data"));
  const room = args.room("signature");
  args.end();
  const active = activeOperation(application, handle);
  if (active.kind === "error") return active;
  if (data === null) return failure("ARGUMENTS_BAD");
  if (active.operation.multiPart) return failure("OPERATION_ACTIVE");
  return finish(application, active, data, room);
};

/** Raw mechanisms are single-part: their data is one digest, and collecting it would be one more place that holds caller's bytes. */
export const signUpdate: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const data = bytesOf(args.byteArray("part"));
  args.end();
  const active = activeOperation(application, handle);
  if (active.kind === "error") return active;
  if (data === null) return failure("ARGUMENTS_BAD");
  if (active.operation.hash === null) {
    active.session.sign = null;
    return failure("FUNCTION_NOT_SUPPORTED");
  }
  active.operation.hash.update(data);
  active.operation.multiPart = true;
  return OK;
};

export const signFinal: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const room = args.room("signature");
  args.end();
  const active = activeOperation(application, handle);
  if (active.kind === "error") return active;
  return finish(application, active, NO_VALUES, room);
};

interface Active {
  readonly kind: "active";
  readonly session: Session;
  readonly operation: SignOperation;
}

/**
 * A length query and a too small buffer are answered from the key's size and leave the operation as it is. Otherwise the operation is
 * over before the token is asked, whatever comes back: one C_SignInit gives at most one signature.
 */
async function finish(
  application: Application,
  active: Active,
  data: Uint8Array,
  room: number | null,
): Promise<Answer> {
  const { state, peer } = application;
  const length = state.key.signatureLength;
  if (room === null || room < length) return values(encodeLength(length));
  active.session.sign = null;
  const result = await finishSigning(state, peer, active.operation, data);
  return result.kind === "refused" ? { kind: "error", rv: result.rv } : values(encodeByteArray(result.bytes, room));
}

function activeOperation(application: Application, handle: bigint): Active | Extract<Answer, { kind: "error" }> {
  const session = application.sessions.get(handle);
  if (session === undefined) return { kind: "error", rv: CKR.SESSION_HANDLE_INVALID };
  if (session.sign === null) return { kind: "error", rv: CKR.OPERATION_NOT_INITIALIZED };
  return { kind: "active", session, operation: session.sign };
}

/** NULL with length 0 is an empty message; NULL with another length is a mistake of the caller. */
function bytesOf(array: ByteArray): Uint8Array | null {
  if (array.kind === "bytes") return array.bytes;
  return array.length === 0 ? NO_VALUES : null;
}
