import { type ServedOperation, type StartedOperation, startOperation } from "../broker/operation.ts";
import { type CallHandler, failure, OK, type Session } from "./application.ts";

/**
 * C_SignInit and C_DecryptInit: one decision without data, and one operation of the kind for a session until it has given its result.
 * @param keep what the session remembers of an operation that was allowed
 */
export function initCall<K extends ServedOperation>(
  operation: K,
  keep: (started: StartedOperation) => Session[K],
): CallHandler {
  return async (application, args) => {
    const handle = args.ulong("session");
    const request = args.mechanismAndKey();
    args.end();
    const session = application.sessions.get(handle);
    if (session === undefined) return failure("SESSION_HANDLE_INVALID");
    if (request.kind === "cancel") {
      session[operation] = null as Session[K]; // no operation is null for both kinds
      return OK;
    }
    if (session[operation] !== null) return failure("OPERATION_ACTIVE");
    const object = application.objects.find((candidate) => candidate.handle === request.key) ?? null;
    const start = await startOperation(application.state, application.peer, object, { ...request, operation });
    if (start.kind === "refused") return { kind: "error", rv: start.rv };
    session[operation] = keep(start);
    return OK;
  };
}
