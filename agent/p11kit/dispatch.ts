import type { Operation } from "../../policy/index.ts";
import { recordStranger } from "../broker/operation.ts";
import { type Answer, type Application, type CallHandler, failure } from "./application.ts";
import { malformed } from "./attributes.ts";
import { CALLS, callNamed } from "./calls.ts";
import { ArgumentReader } from "./codec.ts";
import * as decryption from "./decrypt-calls.ts";
import * as digesting from "./digest-calls.ts";
import type { CallBody } from "./frame.ts";
import * as general from "./general-calls.ts";
import * as mechanisms from "./mechanism-lists.ts";
import * as session from "./session-calls.ts";
import * as signing from "./sign-calls.ts";
import { unwrapKey } from "./unwrap-calls.ts";
import * as verification from "./verify-calls.ts";

/** The calls that are served, by number. What is not in this table is CKR_FUNCTION_NOT_SUPPORTED. */
export const HANDLERS: ReadonlyMap<number, CallHandler> = new Map(
  Object.entries({
    C_Initialize: general.initialize,
    C_Finalize: general.finalize,
    C_GetInfo: general.getInfo,
    C_GetSlotList: general.getSlotList,
    C_GetSlotInfo: general.getSlotInfo,
    C_GetTokenInfo: general.getTokenInfo,
    C_GetMechanismList: mechanisms.getMechanismList,
    C_GetMechanismInfo: mechanisms.getMechanismInfo,
    C_GenerateRandom: general.generateRandom,
    C_SeedRandom: general.seedRandom,
    C_WaitForSlotEvent: general.waitForSlotEvent,
    C_OpenSession: session.openSession,
    C_CloseSession: session.closeSession,
    C_CloseAllSessions: session.closeAllSessions,
    C_GetSessionInfo: session.getSessionInfo,
    C_SessionCancel: session.sessionCancel,
    C_Login: session.login,
    C_LoginUser: session.loginUser,
    C_Logout: session.logout,
    C_FindObjectsInit: session.findObjectsInit,
    C_FindObjects: session.findObjects,
    C_FindObjectsFinal: session.findObjectsFinal,
    C_GetAttributeValue: session.getAttributeValue,
    C_SignInit: signing.signInit,
    C_Sign: signing.sign,
    C_SignUpdate: signing.signUpdate,
    C_SignFinal: signing.signFinal,
    C_DecryptInit: decryption.decryptInit,
    C_Decrypt: decryption.decrypt,
    C_DecryptUpdate: decryption.decryptPart,
    C_DecryptFinal: decryption.decryptFinal,
    C_VerifyInit: verification.verifyInit,
    C_Verify: verification.verify,
    C_VerifyUpdate: verification.verifyUpdate,
    C_VerifyFinal: verification.verifyFinal,
    C_DigestInit: digesting.digestInit,
    C_Digest: digesting.digest,
    C_DigestUpdate: digesting.digestUpdate,
    C_DigestKey: digesting.digestKey,
    C_DigestFinal: digesting.digestFinal,
    C_UnwrapKey: unwrapKey,
  } satisfies Record<string, CallHandler>).map(([name, handler]) => [callNamed(name).id, handler]),
);

const INITIALIZE = callNamed("C_Initialize").id;
const ATTEMPTS: ReadonlyMap<number, Operation> = new Map([
  ...attempts("sign", "C_SignInit", "C_Sign", "C_SignUpdate", "C_SignFinal"),
  ...attempts("decrypt", "C_DecryptInit", "C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal"),
  ...attempts("unwrap", "C_UnwrapKey"),
]);

/**
 * Answers one call of the scope's own caller.
 * @throws a typed error for malformed arguments; the connection is to be closed
 */
export function answerCall(application: Application, { call, values }: CallBody): Answer | Promise<Answer> {
  if (!application.initialized && call !== INITIALIZE) return failure("CRYPTOKI_NOT_INITIALIZED");
  const handler = HANDLERS.get(call);
  if (handler === undefined) return failure("FUNCTION_NOT_SUPPORTED");
  return handler(application, new ArgumentReader(values, application.version));
}

/** Answers one call of anybody else: recorded when it is the connection's first or an attempt to use the key, and rejected. */
export async function answerStranger(
  application: Application,
  { call }: CallBody,
  reason: string,
  isFirst: boolean,
): Promise<Answer> {
  const attempt = ATTEMPTS.get(call);
  if (isFirst || attempt !== undefined)
    await recordStranger(application.state, application.peer, attempt ?? "connect", reason);
  return failure("FUNCTION_REJECTED");
}

function attempts(operation: Operation, ...names: readonly string[]): [number, Operation][] {
  return names.map((name) => [callNamed(name).id, operation]);
}

/** A known call must come with its own signature. Unknown numbers are answered, so that a newer client can go on without them. */
export function checkSignature({ call, signature }: CallBody): void {
  if (call === 0) throw malformed("call", "a request", "ERROR");
  const row = CALLS.get(call);
  if (row !== undefined && row.request !== signature) throw malformed(`${row.name} signature`, row.request, "another");
}
