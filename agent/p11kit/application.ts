import type { Hash } from "node:crypto";
import { CKR } from "../broker/ckr.ts";
import type { ScopeState, StartedOperation } from "../broker/operation.ts";
import type { SignOperation } from "../broker/signing.ts";
import type { Verification } from "../broker/verifying.ts";
import type { Peer } from "../identity.ts";
import { type ArgumentReader, NO_VALUES } from "./codec.ts";
import type { VirtualObject } from "./objects.ts";

export const MAX_SESSIONS = 64;
export const SLOT = 1n;

export interface Session {
  readonly handle: bigint;
  readonly readWrite: boolean;
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
  readonly objects: readonly VirtualObject[];
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

export function activeOf<K extends SessionOperationName>(
  application: Application,
  handle: bigint,
  kind: K,
): SessionOperation<K> {
  const session = application.sessions.get(handle);
  if (session === undefined) return failure("SESSION_HANDLE_INVALID");
  const operation = session[kind];
  return operation === null ? failure("OPERATION_NOT_INITIALIZED") : { kind: "active", session, operation };
}

export function openApplication(
  state: ScopeState,
  objects: readonly VirtualObject[],
  peer: Peer | null,
  version: number,
): Application {
  return { state, objects, peer, version, initialized: false, loggedIn: false, sessions: new Map(), lastSession: 0n };
}

/** Ends every session and forgets the login; the handles go on counting. */
export function resetApplication(application: Application): void {
  application.sessions.clear();
  application.loggedIn = false;
  application.initialized = false;
}
