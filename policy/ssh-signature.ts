import { ByteReader, ByteWriter, concatBytes, fromBase64, toBase64, utf8 } from "./bytes.ts";
import { verifyEd25519 } from "./ed25519.ts";
import { PolicyError } from "./errors.ts";
import { sha256, sha512 } from "./hash.ts";
import { encodeSshKeyBlob, parseSshKeyBlob, type SshPublicKey } from "./ssh-public-key.ts";

/** What `ssh-keygen -Y sign` makes (PROTOCOL.sshsig, version 1), by one of the two kinds of key that are known here. */
export interface SshSignature {
  /** The signer's own statement: whoever verifies compares it with a key that he knows. */
  readonly key: SshPublicKey;
  readonly namespace: string;
  readonly hash: "sha256" | "sha512";
  /** R || S, 64 bytes. */
  readonly signature: Uint8Array;
  /** What a security key adds to what it signs (PROTOCOL.u2f); null for a key that is none. */
  readonly security: { readonly flags: number; readonly counter: number } | null;
}

export interface SshSigned {
  readonly namespace: string;
  readonly message: Uint8Array;
  /** Whether a security key must have verified its user. */
  readonly verifyRequired: boolean;
}

/** Why a signature does not count; null for one that does. */
export type SshSignatureFault = "namespace" | "user presence" | "user verification" | "signature" | null;

/** Of the armored text, in characters: three times what the two kinds of key need. */
export const MAX_SSH_SIGNATURE = 2048;
/** ssh-keygen's own, and the one of PROTOCOL.sshsig, which other programs write. */
const WIDTHS = [70, 76] as const;
const MAGIC = utf8("SSHSIG");
const MAX_FIELD = 1024;
const USER_PRESENT = 0x01;
const USER_VERIFIED = 0x04;
const BEGIN = "-----BEGIN SSH SIGNATURE-----";
const END = "-----END SSH SIGNATURE-----";

/**
 * Reads the armored text: BEGIN line, base64 in lines of 70 or of 76 characters, END line, perhaps a line feed. Verifies nothing.
 * @throws PolicyError ERR_SIGNATURE_MALFORMED for anything that is not written like that, ERR_KEY_MALFORMED for another kind of key (RSA, ECDSA)
 */
export function parseSshSignature(armored: string): SshSignature {
  const text = armored.endsWith("\n") ? armored.slice(0, -1) : armored;
  const body = text.length <= MAX_SSH_SIGNATURE ? text.split("\n").slice(1, -1) : [];
  const blob = base64OrNull(body.join(""));
  if (blob === null || !WIDTHS.some((width) => armor(blob, width) === text))
    throw malformed("armor", "one SSH SIGNATURE block in lines of 70 characters", "another text");
  return readBlob(blob);
}

/**
 * A signature that people bring, in the spelling that machines take: ssh-keygen verifies it with lines of any length, and more behind it; copied
 * from elsewhere it has other line ends too. What is none is returned as it is, for its reader to refuse.
 */
export function respellSshSignature(text: string): string {
  const begin = text.indexOf(BEGIN);
  const end = text.indexOf(END, begin + BEGIN.length);
  if (begin < 0 || end < 0) return text;
  const body = text.slice(begin + BEGIN.length, end).replaceAll(/[\s=]/g, "");
  const blob = base64OrNull(body.padEnd(Math.ceil(body.length / 4) * 4, "="));
  return blob === null ? text : `${armor(blob, 70)}\n`;
}

/** The armored text as ssh-keygen writes it, with a line feed at the end. */
export function encodeSshSignature(signature: SshSignature, width: (typeof WIDTHS)[number] = 70): string {
  const { key, namespace, hash, security } = signature;
  const own = new ByteWriter().sized32(utf8(key.type)).sized32(signature.signature);
  if (security !== null) own.u8(security.flags).u32(security.counter);
  const blob = new ByteWriter()
    .bytes(MAGIC)
    .u32(1)
    .sized32(encodeSshKeyBlob(key))
    .sized32(utf8(namespace))
    .sized32(new Uint8Array())
    .sized32(utf8(hash))
    .sized32(own.finish());
  return `${armor(blob.finish(), width)}\n`;
}

/** The bytes that an Ed25519 key signs for a message, and that a security key signs together with its own (PROTOCOL.sshsig, section 3). */
export function sshSignedData(
  { namespace, hash }: Pick<SshSignature, "namespace" | "hash">,
  message: Uint8Array,
): Uint8Array {
  return new ByteWriter()
    .bytes(MAGIC)
    .sized32(utf8(namespace))
    .sized32(new Uint8Array())
    .sized32(utf8(hash))
    .sized32(hash === "sha256" ? sha256(message) : sha512(message))
    .finish();
}

/**
 * Whether this is a signature of the key that it names over this message in this namespace. A security key must have seen its user
 * touch it. Does not establish whose key that is, nor that a security key's counter has moved: these signatures are used once anyway.
 */
export async function verifySshSignature(signature: SshSignature, signed: SshSigned): Promise<SshSignatureFault> {
  const { key, namespace, security } = signature;
  if (namespace !== signed.namespace) return "namespace";
  if (security !== null && (security.flags & USER_PRESENT) === 0) return "user presence";
  if (signed.verifyRequired && ((security?.flags ?? 0) & USER_VERIFIED) === 0) return "user verification";
  const data = sshSignedData(signature, signed.message);
  const bytes = key.application === null ? data : securityKeyData(key.application, security, data);
  return (await verifyEd25519(key.point, bytes, signature.signature)) ? null : "signature";
}

/** PROTOCOL.u2f, "SSH U2F signatures": what the security key itself signs. */
function securityKeyData(application: string, security: SshSignature["security"], data: Uint8Array): Uint8Array {
  const { flags, counter } = security ?? { flags: 0, counter: 0 };
  return concatBytes(sha256(utf8(application)), new ByteWriter().u8(flags).u32(counter).finish(), sha256(data));
}

function readBlob(blob: Uint8Array): SshSignature {
  try {
    const reader = new ByteReader(blob, "SSH signature");
    expectField("magic", "SSHSIG", latin1(reader.bytes(MAGIC.length, "magic")));
    expectField("version", "1", `${reader.u32("version")}`);
    const key = parseSshKeyBlob(reader.sized32("public key", MAX_FIELD));
    const namespace = latin1(reader.sized32("namespace", 64));
    if (!/^[\x21-\x7e]+$/.test(namespace)) throw malformed("namespace", "printable ASCII", "another text");
    expectField("reserved", "", latin1(reader.sized32("reserved", MAX_FIELD)));
    const hash = hashName(latin1(reader.sized32("hash", 16)));
    const own = readOwn(reader.sized32("signature", MAX_FIELD), key);
    reader.end();
    return { key, namespace, hash, ...own };
  } catch (cause) {
    if (cause instanceof PolicyError && !cause.code.startsWith("ERR_BYTES")) throw cause;
    throw malformed("", "a whole signature, and nothing behind it", "other bytes", cause);
  }
}

function readOwn(bytes: Uint8Array, { type }: SshPublicKey): Pick<SshSignature, "signature" | "security"> {
  const reader = new ByteReader(bytes, "SSH signature value");
  expectField("algorithm", type, latin1(reader.sized32("algorithm", 64)));
  const signature = reader.sized32("value", MAX_FIELD);
  if (signature.length !== 64) throw malformed("value", "64 bytes", `${signature.length}`);
  const security = type === "ssh-ed25519" ? null : { flags: reader.u8("flags"), counter: reader.u32("counter") };
  reader.end();
  return { signature, security };
}

function hashName(text: string): SshSignature["hash"] {
  if (text === "sha256" || text === "sha512") return text;
  throw malformed("hash", "sha256 or sha512", printable(text));
}

function expectField(field: string, expected: string, got: string): void {
  if (got !== expected) throw malformed(field, expected === "" ? "nothing" : expected, printable(got));
}

function armor(blob: Uint8Array, width: number): string {
  const lines = toBase64(blob).match(new RegExp(`.{1,${width}}`, "g")) ?? [];
  return [BEGIN, ...lines, END].join("\n");
}

function base64OrNull(text: string): Uint8Array | null {
  try {
    return text === "" ? null : fromBase64(text);
  } catch {
    return null;
  }
}

function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}

function printable(text: string): string {
  return text.slice(0, 64).replaceAll(/[^\x20-\x7e]/g, "?");
}

function malformed(field: string, expected: string, got: string, cause?: unknown): PolicyError {
  return new PolicyError("ERR_SIGNATURE_MALFORMED", `SSH signature ${field}`.trim(), { expected, got, cause });
}
