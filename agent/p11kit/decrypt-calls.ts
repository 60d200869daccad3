import { finishDecryption, plaintextRoom } from "../broker/decrypting.ts";
import {
  type Application,
  activeOf,
  type CallHandler,
  failure,
  type SessionOperation,
  secret,
  values,
} from "./application.ts";
import { bytesOf, encodeLength } from "./codec.ts";
import { initCall } from "./init-call.ts";

export const decryptInit = initCall("decrypt", (started) => started);

/**
 * A length query is answered from the key's size and leaves the operation as it is. Otherwise the operation is over before the token
 * is asked, whatever comes back: one C_DecryptInit gives at most one plaintext. The caller's buffer may be smaller than the longest
 * plaintext (a client that knows what it wrapped); one that is too small for the real one learns the length, and the plaintext is gone.
 */
export const decrypt: CallHandler = async (application, args) => {
  const handle = args.ulong("session");
  const data = bytesOf(args.byteArray("ciphertext"));
  const room = args.room("plaintext");
  args.end();
  const { state, peer } = application;
  const active = activeOf(application, handle, "decrypt");
  if (active.kind === "error") return active;
  const { session, operation } = active;
  if (data === null) return failure("ARGUMENTS_BAD");
  if (room === null || room === 0) return values(encodeLength(plaintextRoom(operation)));
  session.decrypt = null;
  const result = await finishDecryption(state, peer, operation, data);
  if (result.kind === "refused") return { kind: "error", rv: result.rv };
  if (result.bytes.length <= room) return secret(result.bytes);
  result.bytes.fill(0);
  return values(encodeLength(result.bytes.length));
};

/** RSA has one block. Nothing is collected; like every other error, this one ends the operation. */
export const decryptPart: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  args.byteArray("part");
  args.room("plaintext");
  args.end();
  return endPart(application, handle);
};

export const decryptFinal: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  args.room("plaintext");
  args.end();
  return endPart(application, handle);
};

function endPart(application: Application, handle: bigint): ReturnType<typeof failure> {
  const active: SessionOperation<"decrypt"> = activeOf(application, handle, "decrypt");
  if (active.kind === "error") return active;
  active.session.decrypt = null;
  return failure("FUNCTION_NOT_SUPPORTED");
}
