import { randomBytes } from "node:crypto";
import { concatBytes, equalBytes, type Scope, scopeToken, sha256Hex, utf8 } from "../../policy/index.ts";
import { type ScopeState, scopeOf } from "../broker/scope-state.ts";
import {
  type CallHandler,
  failure,
  liveSession,
  MAX_SESSIONS,
  OK,
  resetApplication,
  SLOT,
  values,
} from "./application.ts";
import { encodeByteArray, encodeFixedText, encodeUlongArray, encodeUlongs, encodeVersion } from "./codec.ts";
import { scopeKeys } from "./scope-keys.ts";

const HANDSHAKE = utf8("PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1");
const MANUFACTURER = "IronClaw";
/** Of CK_INFO's libraryDescription. A slot's has room for any name. */
const DESCRIPTION_BYTES = 32;
const MAX_RANDOM = 65_536;
const UNAVAILABLE = 0xffff_ffff_ffff_ffffn;

const CKF_TOKEN_PRESENT = 0x1n;
const CKF_RNG = 0x1n;
const CKF_WRITE_PROTECTED = 0x2n;
const CKF_USER_PIN_INITIALIZED = 0x8n;
const CKF_TOKEN_INITIALIZED = 0x400n;
const CKF_DONT_BLOCK = 0x1n;

export const initialize: CallHandler = (application, args) => {
  const handshake = args.byteArray("handshake");
  args.byte("reserved present");
  args.byteArray("reserved");
  args.end();
  if (handshake.kind === "null" || !equalBytes(handshake.bytes, HANDSHAKE)) return failure("GENERAL_ERROR");
  if (application.initialized) return failure("CRYPTOKI_ALREADY_INITIALIZED");
  application.initialized = true;
  return OK;
};

export const finalize: CallHandler = (application, args) => {
  args.end();
  resetApplication(application);
  return OK;
};

/** CK_INFO. Own texts that differ from scope to scope: GnuTLS drops a module whose CK_INFO it has seen already. */
export const getInfo: CallHandler = ({ state }, args) => {
  args.end();
  return values(
    concatBytes(
      encodeVersion(2, 40),
      encodeFixedText(MANUFACTURER, 32),
      encodeUlongs(0n),
      encodeFixedText(`scope ${shortName(state.name)}`, DESCRIPTION_BYTES),
      encodeVersion(1, 0),
    ),
  );
};

export const getSlotList: CallHandler = (_application, args) => {
  args.byte("token present");
  const room = args.room("slots");
  args.end();
  return values(encodeUlongArray([SLOT], room));
};

export const getSlotInfo: CallHandler = ({ state }, args) => {
  const slot = args.ulong("slot");
  args.end();
  if (slot !== SLOT) return failure("SLOT_ID_INVALID");
  return values(
    concatBytes(
      encodeFixedText(`scope ${state.name}`, 64),
      encodeFixedText(MANUFACTURER, 32),
      encodeUlongs(CKF_TOKEN_PRESENT),
      encodeVersion(1, 0),
      encodeVersion(1, 0),
    ),
  );
};

export const getTokenInfo: CallHandler = (application, args) => {
  const slot = args.ulong("slot");
  args.end();
  if (slot !== SLOT) return failure("SLOT_ID_INVALID");
  const { state } = application;
  const scope = scopeOf(state);
  const sessions = [...application.sessions.values()];
  const flags = CKF_RNG | CKF_WRITE_PROTECTED | CKF_USER_PIN_INITIALIZED | CKF_TOKEN_INITIALIZED;
  return values(
    concatBytes(
      encodeFixedText(tokenLabel(state, scope), 32),
      encodeFixedText(MANUFACTURER, 32),
      encodeFixedText("scoped session", 16),
      encodeFixedText(tokenSerial(state, scope), 16),
      encodeUlongs(flags, BigInt(MAX_SESSIONS), BigInt(sessions.length), BigInt(MAX_SESSIONS)),
      encodeUlongs(BigInt(sessions.filter(({ readWrite }) => readWrite).length), 255n, 0n),
      encodeUlongs(UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE),
      encodeVersion(1, 0),
      encodeVersion(1, 0),
      encodeFixedText("", 16),
    ),
  );
};

export const generateRandom: CallHandler = (application, args) => {
  const session = args.ulong("session");
  const length = args.room("random");
  args.end();
  if (liveSession(application, session) === null) return failure("SESSION_HANDLE_INVALID");
  if (length === null || length === 0 || length > MAX_RANDOM) return failure("ARGUMENTS_BAD");
  return values(encodeByteArray(randomBytes(length), length));
};

/** The agent's generator takes no seed from a caller. */
export const seedRandom: CallHandler = (application, args) => {
  const session = args.ulong("session");
  args.byteArray("seed");
  args.end();
  return failure(liveSession(application, session) !== null ? "RANDOM_SEED_NOT_SUPPORTED" : "SESSION_HANDLE_INVALID");
};

/** Nothing ever happens to the one slot. A wait without CKF_DONT_BLOCK would hold up every other call of the connection: refused. */
export const waitForSlotEvent: CallHandler = (_application, args) => {
  const flags = args.ulong("flags");
  args.end();
  return failure((flags & CKF_DONT_BLOCK) === 0n ? "FUNCTION_NOT_SUPPORTED" : "NO_EVENT");
};

/** Long names end in a digest of the whole, behind a character that no name has: two that begin alike stay two. */
function shortName(name: string): string {
  const room = DESCRIPTION_BYTES - "scope ".length;
  const digest = sha256Hex(utf8(name)).slice(0, 8);
  return name.length <= room ? name : `${name.slice(0, room - 1 - digest.length)}~${digest}`;
}

/** Of the scope's first key: the policy's scopes are over keys of one token, nearly always. */
function tokenLabel({ live }: ScopeState, scope: Scope | null): string {
  return scope === null ? "" : (scopeToken(live.current, scope, scope.keys[0] ?? "")?.label ?? "");
}

/** Differs from scope to scope and from key to key: clients remember tokens by it. */
function tokenSerial(state: ScopeState, scope: Scope | null): string {
  const keys = scope === null ? [] : scopeKeys(state, scope);
  return sha256Hex(concatBytes(utf8(`${state.name}\0`), ...keys.map(({ key }) => key.spki)));
}
