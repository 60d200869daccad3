import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import type { PKCS11 } from "pkcs11js";
import { utf8 } from "../../policy/index.ts";
import { SealError } from "../../seal/index.ts";
import type { Pkcs11Uri } from "./pkcs11-uri.ts";

// PKCS#11 v2.40, pkcs11t.h.
const CKF = {
  osLockingOk: 0x2,
  serialSession: 0x4,
  tokenInitialized: 0x400,
  userPinFinalTry: 0x2_0000,
  userPinLocked: 0x4_0000,
} as const;
const CKU_USER = 1;
const CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191;
const MAX_PIN = 255;

/** A session of a token whose user has logged in. */
export interface TokenSession {
  readonly library: PKCS11;
  readonly handle: Buffer;
  readonly pin: string;
}

/**
 * The PIN in a file that is its owner's alone: one line. A pipe of the shell will do.
 * @throws SealError ERR_KEY_FILE, which never quotes it
 */
export function readTokenPin(path: string): string {
  const text = readOwnedFile(path).replace(/\n$/, "");
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a carriage return would be tried as part of the PIN
  if (text.length > 0 && utf8(text).length <= MAX_PIN && !/[\u0000-\u001f\u007f\ufffd]/.test(text)) return text;
  throw pinError(path, "one line with the PIN", "another text");
}

function readOwnedFile(path: string): string {
  let fd: number | undefined;
  try {
    fd = openSync(path, "r");
    const mode = fstatSync(fd).mode & 0o777;
    if ((mode & 0o077) !== 0) throw pinError(path, "mode 0600", `0${mode.toString(8)}`, `chmod 600 ${path}`);
    return readFileSync(fd, "utf8");
  } catch (cause) {
    if (cause instanceof SealError) throw cause;
    const got = cause instanceof Error && "code" in cause ? String(cause.code) : "an error";
    throw pinError(path, "a readable file", got);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

function pinError(path: string, expected: string, got: string, hint?: string): SealError {
  return new SealError("ERR_KEY_FILE", `pin-source ${path}`, {
    expected,
    got,
    ...(hint === undefined ? {} : { hint }),
  });
}

/**
 * Acts on the one token that the URI names, in a session of its own, and leaves nothing open.
 * @throws SealError ERR_KEY_TOKEN for no such token or two, one that is locked or about to lock, or the library's refusal
 */
export function withTokenSession<T>(
  library: PKCS11,
  uri: Pkcs11Uri,
  pin: string,
  act: (session: TokenSession) => T,
): T {
  const owned = initialize(library);
  try {
    const slot = findSlot(library, uri);
    const handle = asTokenError("C_OpenSession", () => library.C_OpenSession(slot, CKF.serialSession));
    try {
      asTokenError("C_Login", () => library.C_Login(handle, CKU_USER, pin));
      return act({ library, handle, pin });
    } finally {
      quietly(() => library.C_CloseSession(handle)); // the last one of a token logs out
    }
  } finally {
    if (owned) quietly(() => library.C_Finalize());
  }
}

/** Of a library that fails to close nothing is asked any more; what went wrong before is what is said. */
function quietly(act: () => void): void {
  try {
    act();
  } catch {}
}

/** Whether it was this call that did it. */
function initialize(library: PKCS11): boolean {
  try {
    library.C_Initialize({ flags: CKF.osLockingOk });
    return true;
  } catch (cause) {
    if (returnValue(cause) === CKR_CRYPTOKI_ALREADY_INITIALIZED) return false;
    throw tokenError("C_Initialize", "success", describe(cause), cause);
  }
}

function findSlot(library: PKCS11, { token, serial }: Pkcs11Uri): Buffer {
  const slots = asTokenError("C_GetSlotList", () => library.C_GetSlotList(true)).map((slot) => ({
    slot,
    info: asTokenError("C_GetTokenInfo", () => library.C_GetTokenInfo(slot)),
  }));
  // SoftHSM, and others, show the next token to make as one that is there.
  const [found, second] = slots.filter(
    ({ info }) =>
      (info.flags & CKF.tokenInitialized) !== 0 && matches(info.label, token) && matches(info.serialNumber, serial),
  );
  if (found === undefined) throw tokenError("token", "one that the URI names", "none");
  if (second !== undefined) throw tokenError("token", "one that the URI names", "two", undefined, "name its serial");
  // A wrong PIN would now lock the token: that try is left to a person.
  const { flags } = found.info;
  if ((flags & CKF.userPinLocked) !== 0) throw tokenError("token", "one that takes its PIN", "one that is locked");
  if ((flags & CKF.userPinFinalTry) !== 0)
    throw tokenError(
      "token",
      "more than one PIN try left",
      "the final one",
      undefined,
      "log in with the vendor's tool",
    );
  return found.slot;
}

/** Labels and serial numbers are padded with blanks to a fixed length. */
function matches(padded: string, wanted: string | undefined): boolean {
  return wanted === undefined || padded.replace(/[ \0]+$/, "") === wanted;
}

/** At most two: whether there is exactly one is all that anybody asks. */
export function findObjects(
  { library, handle }: TokenSession,
  template: { type: number; value: number | string | Buffer }[],
) {
  return asTokenError("C_FindObjects", () => {
    library.C_FindObjectsInit(handle, template);
    try {
      return library.C_FindObjects(handle, 2);
    } finally {
      library.C_FindObjectsFinal(handle);
    }
  });
}

export function readAttribute({ library, handle }: TokenSession, object: Buffer, type: number): Buffer {
  const found = asTokenError("C_GetAttributeValue", () => library.C_GetAttributeValue(handle, object, [{ type }]));
  return Buffer.from(found[0]?.value as Buffer); // an attribute that was asked for comes as bytes
}

/** A library's refusal with the function and its CKR code; arguments, and with them the PIN, stay out. */
export function asTokenError<T>(what: string, act: () => T): T {
  try {
    return act();
  } catch (cause) {
    if (cause instanceof SealError) throw cause;
    throw tokenError(what, "success", describe(cause));
  }
}

function returnValue(cause: unknown): number | null {
  return cause instanceof Error && "code" in cause && typeof cause.code === "number" ? cause.code : null;
}

function describe(cause: unknown): string {
  const name = cause instanceof Error ? /^CKR_[A-Z0-9_]+/.exec(cause.message)?.[0] : undefined;
  const code = returnValue(cause);
  return name ?? (code === null || code === 0 ? "a failure" : `0x${code.toString(16)}`);
}

export function tokenError(what: string, expected: string, got: string, cause?: unknown, hint?: string): SealError {
  const fields = { expected, got, cause, ...(hint === undefined ? {} : { hint }) };
  return new SealError("ERR_KEY_TOKEN", `token key: ${what}`, fields);
}
