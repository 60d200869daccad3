import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import type { PKCS11 } from "pkcs11js";
import {
  concatBytes,
  encodeSpkiPem,
  equalBytes,
  fromHex,
  parseVerificationKey,
  type SigningKey,
  sha256,
  utf8,
  verifySignature,
} from "../../policy/index.ts";
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
const CKU = { user: 1, contextSpecific: 2 } as const;
const CKO = { publicKey: 2, privateKey: 3 } as const;
const CKA = {
  class: 0x0,
  label: 0x3,
  keyType: 0x100,
  id: 0x102,
  sign: 0x108,
  modulus: 0x120,
  publicExponent: 0x122,
  ecParams: 0x180,
  ecPoint: 0x181,
  alwaysAuthenticate: 0x202,
} as const;
const CKK = { rsa: 0x0, ec: 0x3 } as const;
const CKM = { rsaPkcs: 0x1, ecdsa: 0x1041 } as const;
const CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191;

const P256_PARAMS = fromHex("06082a8648ce3d030107");
const P256_SPKI = fromHex("3059301306072a8648ce3d020106082a8648ce3d030107034200");
const RSA_SPKI = fromHex("30820122300d06092a864886f70d01010105000382010f003082010a0282010100");
const RSA_EXPONENT = fromHex("0203010001");
/** RFC 8017, section 9.2: the DigestInfo of SHA-256, without the digest. */
const SHA256_DIGEST_INFO = fromHex("3031300d060960864801650304020105000420");
const SIGNATURE_ROOM = 512;
const MAX_PIN = 255;

interface TokenSession {
  readonly library: PKCS11;
  readonly handle: Buffer;
  readonly pin: string;
}

/**
 * A key that stays on its token. Every signature has a log-in and a session of its own, closed before it is returned, and is verified
 * under the public half: a token may hold another key's public object beside it.
 *
 * @throws SealError ERR_KEY_TOKEN: no such key or two of them, another kind of key, or the token's own refusal. Never names the PIN.
 */
export async function openTokenKey(uri: Pkcs11Uri): Promise<SigningKey> {
  const pin = readPin(uri.pinSource);
  const { PKCS11 } = await import("pkcs11js").catch((cause: unknown) => {
    throw tokenError("pkcs11js", "its native part, built by `npm test` or `npm start`", "none", cause);
  });
  const library = new PKCS11();
  asTokenError("library", () => library.load(uri.modulePath));
  const spkiPem = withSession(library, uri, pin, (session) => readPublicKey(session, findPrivateKey(session, uri)));
  return {
    spkiPem,
    sign: async (data) => {
      const signature = withSession(library, uri, pin, (session) => signOnce(session, uri, spkiPem, data));
      if (await verifySignature(spkiPem, data, signature)) return signature;
      throw tokenError("signature", "one of the public key beside it", "another key's");
    },
  };
}

/** One line, of a file that is its owner's alone. A pipe of the shell will do. */
function readPin(path: string): string {
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

function withSession<T>(library: PKCS11, uri: Pkcs11Uri, pin: string, act: (session: TokenSession) => T): T {
  const owned = initialize(library);
  try {
    const slot = findSlot(library, uri);
    const handle = asTokenError("C_OpenSession", () => library.C_OpenSession(slot, CKF.serialSession));
    try {
      asTokenError("C_Login", () => library.C_Login(handle, CKU.user, pin));
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

function findPrivateKey(session: TokenSession, { object, id }: Pkcs11Uri): Buffer {
  const keys = findObjects(session, [
    { type: CKA.class, value: CKO.privateKey },
    ...(object === undefined ? [] : [{ type: CKA.label, value: object }]),
    ...(id === undefined ? [] : [{ type: CKA.id, value: Buffer.from(id) }]),
  ]);
  const [key, second] = keys;
  if (key === undefined) throw tokenError("private key", "one that the URI names", "none");
  if (second !== undefined)
    throw tokenError("private key", "one that the URI names", "two", undefined, "name its object and its id");
  return key;
}

function findObjects({ library, handle }: TokenSession, template: { type: number; value: number | string | Buffer }[]) {
  return asTokenError("C_FindObjects", () => {
    library.C_FindObjectsInit(handle, template);
    try {
      return library.C_FindObjects(handle, 2);
    } finally {
      library.C_FindObjectsFinal(handle);
    }
  });
}

/** The public object that shares the private key's CKA_ID. */
function readPublicKey(session: TokenSession, privateKey: Buffer): string {
  const id = readAttribute(session, privateKey, CKA.id);
  const keyType = readAttribute(session, privateKey, CKA.keyType).readUInt8(0);
  const [found, second] = findObjects(session, [
    { type: CKA.class, value: CKO.publicKey },
    { type: CKA.id, value: id },
  ]);
  if (id.length === 0 || found === undefined || second !== undefined) {
    const got = id.length === 0 ? "a key without an id" : found === undefined ? "none" : "two";
    throw tokenError("public key", "one with the private key's id", got);
  }
  const spki = keyType === CKK.ec ? readP256(session, found) : readRsa(session, found, keyType);
  const pem = encodeSpkiPem(spki);
  parseVerificationKey(pem);
  return pem;
}

function readP256(session: TokenSession, key: Buffer): Uint8Array {
  const point = readAttribute(session, key, CKA.ecPoint);
  // An OCTET STRING of the point; older tokens give the point alone.
  const raw = point.length === 67 && point[0] === 0x04 && point[1] === 65 ? point.subarray(2) : point;
  const isP256 = equalBytes(readAttribute(session, key, CKA.ecParams), P256_PARAMS);
  if (!isP256 || raw.length !== 65 || raw[0] !== 0x04) throw anotherKind("another curve");
  return concatBytes(P256_SPKI, raw);
}

function readRsa(session: TokenSession, key: Buffer, keyType: number): Uint8Array {
  if (keyType !== CKK.rsa) throw anotherKind("another kind");
  const modulus = withoutZeros(readAttribute(session, key, CKA.modulus));
  const exponent = withoutZeros(readAttribute(session, key, CKA.publicExponent));
  if (modulus.length !== 256 || !equalBytes(exponent, RSA_EXPONENT.subarray(2)))
    throw anotherKind(`RSA-${modulus.length * 8} with exponent 0x${exponent.toString("hex").slice(0, 16)}`);
  return concatBytes(RSA_SPKI, modulus, RSA_EXPONENT);
}

function withoutZeros(value: Buffer): Buffer {
  const first = value.findIndex((byte) => byte !== 0);
  return value.subarray(first < 0 ? value.length : first);
}

function anotherKind(got: string): SealError {
  return tokenError("public key", "ECDSA P-256, or RSA-2048 with exponent 65537", got);
}

function signOnce(session: TokenSession, uri: Pkcs11Uri, spkiPem: string, data: Uint8Array): Uint8Array {
  const { library, handle, pin } = session;
  const key = findPrivateKey(session, uri);
  const digest = sha256(data);
  const ec = parseVerificationKey(spkiPem).kind === "p256";
  const input = Buffer.from(ec ? digest : concatBytes(SHA256_DIGEST_INFO, digest));
  return asTokenError("C_Sign", () => {
    library.C_SignInit(handle, { mechanism: ec ? CKM.ecdsa : CKM.rsaPkcs }, key);
    if (asksEachTime(session, key)) library.C_Login(handle, CKU.contextSpecific, pin);
    return Uint8Array.from(library.C_Sign(handle, input, Buffer.alloc(SIGNATURE_ROOM)));
  });
}

/** CKA_ALWAYS_AUTHENTICATE, as a PIV card's signature key has it. Libraries that do not know the attribute do not ask. */
function asksEachTime({ library, handle }: TokenSession, key: Buffer): boolean {
  try {
    const [found] = library.C_GetAttributeValue(handle, key, [{ type: CKA.alwaysAuthenticate }]);
    return Buffer.isBuffer(found?.value) && found.value[0] === 1;
  } catch {
    return false;
  }
}

function readAttribute({ library, handle }: TokenSession, object: Buffer, type: number): Buffer {
  const found = asTokenError("C_GetAttributeValue", () => library.C_GetAttributeValue(handle, object, [{ type }]));
  return Buffer.from(found[0]?.value as Buffer); // an attribute that was asked for comes as bytes
}

/** A library's refusal with the function and its CKR code; arguments, and with them the PIN, stay out. */
function asTokenError<T>(what: string, act: () => T): T {
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

function tokenError(what: string, expected: string, got: string, cause?: unknown, hint?: string): SealError {
  const fields = { expected, got, cause, ...(hint === undefined ? {} : { hint }) };
  return new SealError("ERR_KEY_TOKEN", `token key: ${what}`, fields);
}
