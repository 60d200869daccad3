import { type StartedOperation, startOperation } from "../broker/operation.ts";
import { type Answer, type CallHandler, failure, liveSession, OK, type Session } from "./application.ts";
import { keyObjectOf } from "./objects.ts";

/**
 * C_SignInit and C_DecryptInit: one decision without data, and one operation of the kind for a session until it has given its result.
 * @param keep what the session remembers of an operation that was allowed
 */
export function initCall<K extends "sign" | "decrypt">(
  operation: K,
  keep: (started: StartedOperation) => Session[K],
): CallHandler {
  return (application, args) => {
    const handle = args.ulong("session");
    const request = args.mechanismAndKey();
    args.end();
    const session = liveSession(application, handle);
    if (session === null) return failure("SESSION_HANDLE_INVALID");
    if (request.kind === "cancel") {
      session[operation] = null as Session[K]; // no operation is null for both kinds
      return OK;
    }
    if (session[operation] !== null) return failure("OPERATION_ACTIVE");
    const { state, peer } = application;
    const object = keyObjectOf(state, request.key);
    const { mechanism, parameters } = request;
    const [key, isPublic] = [object?.key.name ?? null, object?.kind === "public"];
    const start = startOperation(state, peer, { operation, mechanism, parameters, key, isPublic });
    if (start instanceof Promise) return start.then(({ rv }): Answer => ({ kind: "error", rv }));
    session[operation] = keep(start);
    return OK;
  };
}
