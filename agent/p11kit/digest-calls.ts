import { createHash } from "node:crypto";
import { DIGESTS } from "../../policy/index.ts";
import {
  type Answer,
  activeOf,
  type CallHandler,
  type Digest,
  failure,
  liveSession,
  OK,
  type SessionOperation,
  values,
} from "./application.ts";
import { bytesOf, encodeByteArray, encodeLength, NO_VALUES } from "./codec.ts";

/** What C_DigestInit takes, by CK_MECHANISM_TYPE: hash functions of the agent's own, in every scope. */
export const DIGEST_MECHANISMS: ReadonlyMap<bigint, () => Digest> = new Map(
  Object.entries(DIGESTS).map(([name, { mechanism, size }]) => [
    mechanism,
    () => ({ hash: createHash(name), size, multiPart: false }),
  ]),
);

export const digestInit: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const request = args.lastMechanism();
  args.end();
  const session = liveSession(application, handle);
  if (session === null) return failure("SESSION_HANDLE_INVALID");
  if (request.kind === "cancel") {
    session.digest = null;
    return OK;
  }
  if (session.digest !== null) return failure("OPERATION_ACTIVE");
  const open = DIGEST_MECHANISMS.get(request.mechanism);
  if (open === undefined) return failure("MECHANISM_INVALID");
  if (request.parameters.kind !== "none") return failure("MECHANISM_PARAM_INVALID");
  session.digest = open();
  return OK;
};

export const digest: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const data = bytesOf(args.byteArray("data"));
  const room = args.room("digest");
  args.end();
  const active = activeOf(application, handle, "digest");
  if (active.kind === "error") return active;
  if (data === null) return failure("ARGUMENTS_BAD");
  if (active.operation.multiPart) return failure("OPERATION_ACTIVE");
  return finish(active, data, room);
};

export const digestUpdate: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const data = bytesOf(args.byteArray("part"));
  args.end();
  const active = activeOf(application, handle, "digest");
  if (active.kind === "error") return active;
  if (data === null) return failure("ARGUMENTS_BAD");
  active.operation.hash.update(data);
  active.operation.multiPart = true;
  return OK;
};

export const digestFinal: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const room = args.room("digest");
  args.end();
  const active = activeOf(application, handle, "digest");
  if (active.kind === "error") return active;
  return finish(active, NO_VALUES, room);
};

/** Nothing of a key is a digest's input: there is no key that the agent could hash. */
export const digestKey: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  args.ulong("key");
  args.end();
  const active = activeOf(application, handle, "digest");
  if (active.kind === "error") return active;
  active.session.digest = null;
  return failure("KEY_INDIGESTIBLE");
};

/** A length query and a too small buffer leave the operation as it is. */
function finish(
  { session, operation }: Extract<SessionOperation<"digest">, { kind: "active" }>,
  data: Uint8Array,
  room: number | null,
): Answer {
  if (room === null || room < operation.size) return values(encodeLength(operation.size));
  session.digest = null;
  return values(encodeByteArray(Uint8Array.from(operation.hash.update(data).digest()), room));
}
