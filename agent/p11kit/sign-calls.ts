import { finishSigning, signOperation } from "../broker/signing.ts";
import {
  type Answer,
  type Application,
  activeOf,
  type CallHandler,
  failure,
  OK,
  type SessionOperation,
  values,
} from "./application.ts";
import { bytesOf, encodeByteArray, encodeLength, NO_VALUES } from "./codec.ts";
import { initCall } from "./init-call.ts";

export const signInit = initCall("sign", signOperation);

export const sign: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const data = bytesOf(args.byteArray("data"));
  const room = args.room("signature");
  args.end();
  const active = activeOf(application, handle, "sign");
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
  const active = activeOf(application, handle, "sign");
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
  const active = activeOf(application, handle, "sign");
  if (active.kind === "error") return active;
  return finish(application, active, NO_VALUES, room);
};

type Active = Extract<SessionOperation<"sign">, { kind: "active" }>;

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
  const length = active.operation.started.key.signatureLength;
  if (room === null || room < length) return values(encodeLength(length));
  active.session.sign = null;
  const result = await finishSigning(state, peer, active.operation, data);
  return result.kind === "refused" ? { kind: "error", rv: result.rv } : values(encodeByteArray(result.bytes, room));
}
