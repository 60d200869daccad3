import { scopeOf } from "../broker/scope-state.ts";
import { finishVerification, startVerification } from "../broker/verifying.ts";
import {
  type Answer,
  activeOf,
  type CallHandler,
  failure,
  liveSession,
  OK,
  type SessionOperation,
} from "./application.ts";
import { bytesOf, NO_VALUES } from "./codec.ts";
import { keyObjectOf } from "./objects.ts";

export const verifyInit: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const request = args.mechanismAndKey();
  args.end();
  const session = liveSession(application, handle);
  if (session === null) return failure("SESSION_HANDLE_INVALID");
  if (request.kind === "cancel") {
    session.verify = null;
    return OK;
  }
  if (session.verify !== null) return failure("OPERATION_ACTIVE");
  const { state } = application;
  const scope = scopeOf(state);
  const object = keyObjectOf(state, request.key);
  if (scope === null || object === null) return failure("KEY_HANDLE_INVALID");
  if (object.kind !== "public") return failure("KEY_FUNCTION_NOT_PERMITTED");
  const start = startVerification(state.live.current, scope, object.key, request);
  if (start.kind === "refused") return failure(start.code);
  session.verify = start.verification;
  return OK;
};

export const verify: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const data = bytesOf(args.byteArray("data"));
  const signature = bytesOf(args.byteArray("signature"));
  args.end();
  const active = activeOf(application, handle, "verify");
  if (active.kind === "error") return active;
  if (data === null || signature === null) return failure("ARGUMENTS_BAD");
  if (active.operation.multiPart) return failure("OPERATION_ACTIVE");
  return finish(active, data, signature);
};

/** Raw mechanisms are single-part, as for C_Sign. */
export const verifyUpdate: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const data = bytesOf(args.byteArray("part"));
  args.end();
  const active = activeOf(application, handle, "verify");
  if (active.kind === "error") return active;
  if (data === null) return failure("ARGUMENTS_BAD");
  if (active.operation.hash === null) {
    active.session.verify = null;
    return failure("FUNCTION_NOT_SUPPORTED");
  }
  active.operation.hash.update(data);
  active.operation.multiPart = true;
  return OK;
};

export const verifyFinal: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const signature = bytesOf(args.byteArray("signature"));
  args.end();
  const active = activeOf(application, handle, "verify");
  if (active.kind === "error") return active;
  if (signature === null) return failure("ARGUMENTS_BAD");
  return finish(active, NO_VALUES, signature);
};

/** The operation is over, whatever the answer is. */
function finish(
  { session, operation }: Extract<SessionOperation<"verify">, { kind: "active" }>,
  data: Uint8Array,
  signature: Uint8Array,
): Answer {
  session.verify = null;
  const wrong = finishVerification(operation, data, signature);
  return wrong === null ? OK : failure(wrong);
}
