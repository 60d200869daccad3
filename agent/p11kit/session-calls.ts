import { SessionClock } from "../broker/session-clock.ts";
import {
  type Answer,
  type Application,
  type CallHandler,
  endSession,
  failure,
  liveSession,
  MAX_SESSIONS,
  OK,
  type Session,
  SLOT,
  values,
} from "./application.ts";
import { type ArgumentReader, encodeUlongArray, encodeUlongs } from "./codec.ts";
import { CKF_DECRYPT, CKF_DIGEST, CKF_SIGN, CKF_VERIFY } from "./mechanism-lists.ts";
import { encodeAttributes, matchesTemplate, objectOf, scopeObjects } from "./objects.ts";

const CKF_RW_SESSION = 0x2n;
const CKF_SERIAL_SESSION = 0x4n;

/** Flags of C_SessionCancel that name what a session may have in work. */
const CKF_FIND_OBJECTS = 0x40n;

export const openSession: CallHandler = (application, args) => {
  const slot = args.ulong("slot");
  const flags = args.ulong("flags");
  args.end();
  if (slot !== SLOT) return failure("SLOT_ID_INVALID");
  if ((flags & CKF_SERIAL_SESSION) === 0n) return failure("SESSION_PARALLEL_NOT_SUPPORTED");
  if (application.sessions.size >= MAX_SESSIONS) return failure("SESSION_COUNT");
  application.lastSession += 1n;
  const handle = application.lastSession;
  const session: Session = {
    handle,
    readWrite: (flags & CKF_RW_SESSION) !== 0n,
    clock: new SessionClock(application.state.now),
    find: null,
    sign: null,
    decrypt: null,
    verify: null,
    digest: null,
  };
  application.sessions.set(handle, session);
  return values(encodeUlongs(handle));
};

export const closeSession: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  args.end();
  return endSession(application, handle) ? OK : failure("SESSION_HANDLE_INVALID");
};

export const closeAllSessions: CallHandler = (application, args) => {
  const slot = args.ulong("slot");
  args.end();
  if (slot !== SLOT) return failure("SLOT_ID_INVALID");
  application.sessions.clear();
  application.loggedIn = false;
  return OK;
};

export const getSessionInfo: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  args.end();
  const session = liveSession(application, handle);
  if (session === null) return failure("SESSION_HANDLE_INVALID");
  // CKS_RO_PUBLIC 0, CKS_RO_USER 1, CKS_RW_PUBLIC 2, CKS_RW_USER 3
  const state = (session.readWrite ? 2n : 0n) + (application.loggedIn ? 1n : 0n);
  const flags = CKF_SERIAL_SESSION | (session.readWrite ? CKF_RW_SESSION : 0n);
  return values(encodeUlongs(SLOT, state, flags, 0n));
};

/** Accepted without looking at the PIN: the token's login is the agent's, and a caller's right comes from who it is. */
export const login: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  args.ulong("user type");
  dropPin(args);
  args.end();
  return loggedIn(application, handle);
};

/** C_LoginUser (PKCS #11 3.0): C_Login with a user's name, which says nothing here either. */
export const loginUser: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  args.ulong("user type");
  dropPin(args);
  args.byteArray("user name");
  args.end();
  return loggedIn(application, handle);
};

/** C_SessionCancel (PKCS #11 3.0). Flags of operations that this door does not have cancel nothing. */
export const sessionCancel: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const flags = args.ulong("flags");
  args.end();
  const session = liveSession(application, handle);
  if (session === null) return failure("SESSION_HANDLE_INVALID");
  if ((flags & CKF_FIND_OBJECTS) !== 0n) session.find = null;
  if ((flags & CKF_DECRYPT) !== 0n) session.decrypt = null;
  if ((flags & CKF_DIGEST) !== 0n) session.digest = null;
  if ((flags & CKF_SIGN) !== 0n) session.sign = null;
  if ((flags & CKF_VERIFY) !== 0n) session.verify = null;
  return OK;
};

export const logout: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  args.end();
  if (liveSession(application, handle) === null) return failure("SESSION_HANDLE_INVALID");
  application.loggedIn = false;
  return OK;
};

export const findObjectsInit: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const template = args.attributes();
  args.end();
  const session = liveSession(application, handle);
  if (session === null) return failure("SESSION_HANDLE_INVALID");
  if (session.find !== null) return failure("OPERATION_ACTIVE");
  session.find = scopeObjects(application.state)
    .filter((object) => matchesTemplate(object, template))
    .map((object) => object.handle);
  return OK;
};

export const findObjects: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const room = args.room("objects");
  args.end();
  const session = liveSession(application, handle);
  if (session === null) return failure("SESSION_HANDLE_INVALID");
  if (session.find === null) return failure("OPERATION_NOT_INITIALIZED");
  const count = room ?? 0;
  const found = session.find.slice(0, count);
  session.find = session.find.slice(count);
  return values(encodeUlongArray(found, found.length));
};

export const findObjectsFinal: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  args.end();
  const session = liveSession(application, handle);
  if (session === null) return failure("SESSION_HANDLE_INVALID");
  if (session.find === null) return failure("OPERATION_NOT_INITIALIZED");
  session.find = null;
  return OK;
};

export const getAttributeValue: CallHandler = (application, args) => {
  const handle = args.ulong("session");
  const objectHandle = args.ulong("object");
  const queries = args.attributeQueries();
  args.end();
  if (liveSession(application, handle) === null) return failure("SESSION_HANDLE_INVALID");
  const object = objectOf(application.state, objectHandle);
  if (object === null) return failure("OBJECT_HANDLE_INVALID");
  const reply = encodeAttributes(object, queries);
  return reply === null ? failure("ARGUMENTS_BAD") : values(reply);
};

function dropPin(args: ArgumentReader): void {
  const pin = args.byteArray("pin");
  if (pin.kind === "bytes") pin.bytes.fill(0);
}

function loggedIn(application: Application, handle: bigint): Answer {
  if (liveSession(application, handle) === null) return failure("SESSION_HANDLE_INVALID");
  application.loggedIn = true;
  return OK;
}
