import type { Peer } from "../identity.ts";
import { CKR } from "./calls.ts";
import { type ArgumentReader, NO_VALUES } from "./codec.ts";
import type { VirtualObject } from "./objects.ts";
import type { ScopeState, SignOperation } from "./signing.ts";

export const MAX_SESSIONS = 64;
export const SLOT = 1n;

export interface Session {
  readonly handle: bigint;
  readonly readWrite: boolean;
  /** Objects that C_FindObjects has still to return; null when no search is active. */
  find: readonly bigint[] | null;
  sign: SignOperation | null;
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

/** What a call answers: the values of its reply, or a CK_RV other than CKR_OK. */
export type Answer =
  | { readonly kind: "values"; readonly values: Uint8Array }
  | { readonly kind: "error"; readonly rv: bigint };

/** Reads all its arguments, up to `end()`, before it changes anything. */
export type CallHandler = (application: Application, args: ArgumentReader) => Answer | Promise<Answer>;

export const OK: Answer = { kind: "values", values: NO_VALUES };

export function values(bytes: Uint8Array): Answer {
  return { kind: "values", values: bytes };
}

export function failure(name: keyof typeof CKR): Answer {
  return { kind: "error", rv: CKR[name] };
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
