import type { Hash } from "node:crypto";
import { CKR } from "../broker/ckr.ts";
import { recordExpiry, type StartedOperation } from "../broker/operation.ts";
import { type ScopeState, scopeOf } from "../broker/scope-state.ts";
import type { SessionClock } from "../broker/session-clock.ts";
import type { SignOperation } from "../broker/signing.ts";
import type { Verification } from "../broker/verifying.ts";
import type { Peer } from "../identity.ts";
import { type ArgumentReader, NO_VALUES } from "./codec.ts";

export const MAX_SESSIONS = 64;
export const SLOT = 1n;

export interface Session {
  readonly handle: bigint;
  readonly readWrite: boolean;
  readonly clock: SessionClock;
  /** Objects that C_FindObjects has still to return; null when no search is active. */
  find: readonly bigint[] | null;
  sign: SignOperation | null;
  decrypt: StartedOperation | null;
  verify: Verification | null;
  digest: Digest | null;
}

/** The operations that a session can have in work, one of each at a time. */
export type SessionOperationName = "sign" | "decrypt" | "verify" | "digest";

/** A C_DigestInit: the state of one hash function, in the agent. */
export interface Digest {
  readonly hash: Hash;
  /** Bytes of the digest. */
  readonly size: number;
  /** C_DigestUpdate was called. */
  multiPart: boolean;
}

/** One connection as one PKCS #11 application. Handles count up from 1, so that the same calls get the same handles everywhere. */
export interface Application {
  readonly state: ScopeState;
  readonly peer: Peer | null;
  /** The answered protocol version. */
  readonly version: number;
  initialized: boolean;
  loggedIn: boolean;
  readonly sessions: Map<bigint, Session>;
  lastSession: bigint;
}

/** What a call answers: the values of its reply, one byte array that is wiped once it is sent, or a CK_RV other than CKR_OK. */
export type Answer =
  | { readonly kind: "values"; readonly values: Uint8Array }
  | { readonly kind: "secret"; readonly bytes: Uint8Array }
  | { readonly kind: "error"; readonly rv: bigint };
type Failure = Extract<Answer, { kind: "error" }>;

/** A session with an operation that was begun, or why there is none. */
export type SessionOperation<K extends SessionOperationName> =
  | { readonly kind: "active"; readonly session: Session; readonly operation: NonNullable<Session[K]> }
  | Failure;

/** Reads all its arguments, up to `end()`, before it changes anything. */
export type CallHandler = (application: Application, args: ArgumentReader) => Answer | Promise<Answer>;

export const OK: Answer = { kind: "values", values: NO_VALUES };

export function values(bytes: Uint8Array): Answer {
  return { kind: "values", values: bytes };
}

export function secret(bytes: Uint8Array): Answer {
  return { kind: "secret", bytes };
}

export function failure(name: keyof typeof CKR): Failure {
  return { kind: "error", rv: CKR[name] };
}

/** The session of that handle, and this as a use of it; null when there is none, or when its scope's limits have ended it. */
export function liveSession(application: Application, handle: bigint): Session | null {
  const { state, peer, sessions } = application;
  const session = sessions.get(handle);
  if (session === undefined) return null;
  const why = session.clock.use(scopeOf(state) ?? {});
  if (why === null) return session;
  endSession(application, handle);
  // Nobody waits for the record: what it says has happened, and no operation follows from it.
  void recordExpiry(state, peer, why);
  return null;
}

/** False when there is no such session. With the last one its login is gone, too. */
export function endSession(application: Application, handle: bigint): boolean {
  const ended = application.sessions.delete(handle);
  if (application.sessions.size === 0) application.loggedIn = false;
  return ended;
}

export function activeOf<K extends SessionOperationName>(
  application: Application,
  handle: bigint,
  kind: K,
): SessionOperation<K> {
  const session = liveSession(application, handle);
  if (session === null) return failure("SESSION_HANDLE_INVALID");
  const operation = session[kind];
  return operation === null ? failure("OPERATION_NOT_INITIALIZED") : { kind: "active", session, operation };
}

export function openApplication(state: ScopeState, peer: Peer | null, version: number): Application {
  return { state, peer, version, initialized: false, loggedIn: false, sessions: new Map(), lastSession: 0n };
}

/** Ends every session and forgets the login; the handles go on counting. */
export function resetApplication(application: Application): void {
  application.sessions.clear();
  application.loggedIn = false;
  application.initialized = false;
}
