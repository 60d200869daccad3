import { ByteReader, ByteWriter, equalBytes, fromBase64, toBase64, utf8 } from "./bytes.ts";
import { isEd25519Point } from "./ed25519.ts";
import { PolicyError } from "./errors.ts";
import { sha256 } from "./hash.ts";
import { firstUnprintable } from "./printable.ts";

export const SSH_KEY_TYPES = ["ssh-ed25519", "sk-ssh-ed25519@openssh.com"] as const;
export type SshKeyType = (typeof SSH_KEY_TYPES)[number];

/** A public key as OpenSSH has it (PROTOCOL, PROTOCOL.u2f). Its point is one of large order, in its one encoding. */
export interface SshPublicKey {
  readonly type: SshKeyType;
  /** 32 bytes. */
  readonly point: Uint8Array;
  /** What a security key signs for, e.g. `ssh:`; null for a key that is none. */
  readonly application: string | null;
}

/** One line, as in a `.pub` file. */
export interface SshKeyLine {
  readonly key: SshPublicKey;
  /** The option of that name stands in front, as in `authorized_keys`: a security key has to have verified its user, by PIN or finger. */
  readonly verifyRequired: boolean;
  /** Says nothing: whoever has the line may change it. Empty when there is none. */
  readonly comment: string;
}

const VERIFY_REQUIRED = "verify-required ";
/** Of a line, in characters. */
const MAX_LINE = 1024;
/** Of another kind of key, to be told that it is one. */
const MAX_FIELD = 4096;
const MAX_APPLICATION = 128;
const LINE = /^(?:verify-required )?([a-z0-9@.-]{1,64}) ([A-Za-z0-9+/]{4,1000}={0,2})(?: (.*))?$/su;

/**
 * Reads a line: `ssh-ed25519` or `sk-ssh-ed25519@openssh.com`, the key in base64, perhaps a comment, with single spaces between. A security
 * key may have `verify-required` in front, and no other option exists. A comment is any printable text, of whatever script.
 * @throws PolicyError ERR_KEY_MALFORMED; says nothing about whose key it is
 */
export function parseSshKeyLine(line: string): SshKeyLine {
  if (line.length > MAX_LINE) throw malformed("line", `at most ${MAX_LINE} characters`, `${line.length}`);
  const [, type, blob, comment] = LINE.exec(line) ?? [];
  if (type === undefined || blob === undefined) throw malformed("line", "TYPE BASE64 [COMMENT]", "another text");
  if (comment !== undefined) checkComment(comment);
  const key = parseSshKeyBlob(blobBytes(blob));
  if (key.type !== type) throw malformed("type", key.type, type);
  const verifyRequired = line.startsWith(VERIFY_REQUIRED);
  if (verifyRequired && key.application === null)
    throw malformed("option verify-required", "a security key", "ssh-ed25519, which verifies nobody");
  return { key, verifyRequired, comment: comment ?? "" };
}

function checkComment(comment: string): void {
  const hidden = firstUnprintable(comment)?.codePointAt(0);
  if (hidden !== undefined)
    throw malformed("comment", "printable characters", `U+${hidden.toString(16).toUpperCase().padStart(4, "0")}`);
  if (comment === "" || comment.trim() !== comment)
    throw malformed("comment", "a text without spaces at its ends", comment === "" ? "an empty one" : "another");
}

export function encodeSshKeyLine({ key, verifyRequired, comment }: SshKeyLine): string {
  const option = verifyRequired ? VERIFY_REQUIRED : "";
  return `${option}${key.type} ${toBase64(encodeSshKeyBlob(key))}${comment === "" ? "" : ` ${comment}`}`;
}

/** Reads a key as it stands in signatures, and in base64 in a line. @throws PolicyError ERR_KEY_MALFORMED */
export function parseSshKeyBlob(bytes: Uint8Array): SshPublicKey {
  const key = readBlob(bytes);
  if (!isEd25519Point(key.point)) throw malformed("point", "a point of large order, in its one encoding", "another");
  return key;
}

export function encodeSshKeyBlob({ type, point, application }: SshPublicKey): Uint8Array {
  const writer = new ByteWriter().sized32(utf8(type)).sized32(point);
  return (application === null ? writer : writer.sized32(utf8(application))).finish();
}

/** As `ssh-keygen -l` shows it: `SHA256:` and 43 characters. */
export function sshFingerprint(key: SshPublicKey): string {
  return `SHA256:${toBase64(sha256(encodeSshKeyBlob(key))).replaceAll("=", "")}`;
}

/** The same key: type, point and application. */
export function isSameSshKey(a: SshPublicKey, b: SshPublicKey): boolean {
  return equalBytes(encodeSshKeyBlob(a), encodeSshKeyBlob(b));
}

function readBlob(bytes: Uint8Array): SshPublicKey {
  try {
    const reader = new ByteReader(bytes, "SSH public key");
    const type = keyType(ascii(reader.sized32("type", MAX_FIELD)));
    const point = reader.sized32("point", MAX_FIELD);
    const application = type === "ssh-ed25519" ? null : ascii(reader.sized32("application", MAX_APPLICATION));
    reader.end();
    return { type, point, application };
  } catch (cause) {
    if (cause instanceof PolicyError && cause.code === "ERR_KEY_MALFORMED") throw cause;
    throw malformed("", "a whole key, and nothing behind it", "other bytes", cause);
  }
}

function keyType(text: string): SshKeyType {
  const type = SSH_KEY_TYPES.find((known) => known === text);
  if (type === undefined) throw malformed("type", SSH_KEY_TYPES.join(" or "), text.slice(0, 64));
  return type;
}

function ascii(bytes: Uint8Array): string {
  if (bytes.length === 0 || !bytes.every((byte) => byte > 0x20 && byte < 0x7f))
    throw malformed("text", "printable ASCII without spaces", "another");
  return String.fromCharCode(...bytes);
}

function blobBytes(text: string): Uint8Array {
  try {
    return fromBase64(text);
  } catch (cause) {
    throw malformed("base64", "canonical base64", `${text.length} characters`, cause);
  }
}

function malformed(field: string, expected: string, got: string, cause?: unknown): PolicyError {
  return new PolicyError("ERR_KEY_MALFORMED", `SSH public key ${field}`.trim(), { expected, got, cause });
}
