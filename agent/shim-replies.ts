import { ByteReader } from "../policy/index.ts";
import { AgentError } from "./errors.ts";

/** Largest frame after its length field, both ways. */
export const MAX_FRAME = 65_536 + 64;

/** The shim's own answers (SHIM.md): `rv` of an ERR_SHIM_REFUSED that no library can have given. */
export const SHIM_RV = {
  /** LOGIN: C_Login was not called, the token has lost no try. */
  notTried: 0x8049_4301n,
  /** UNWRAP: the key is not what was asked for; it is of no use. */
  unfit: 0x8049_4302n,
  /** UNWRAP: the same, and it is still on the token. */
  unfitOnToken: 0x8049_4303n,
} as const;

export interface ShimReady {
  readonly landlockAbi: number;
  /** Filters in force when the message was sent; the lock filter follows before the first request is read. */
  readonly filters: number;
}

/** What the shim says about one attempt. The kernel's notifications are the evidence, not this. */
export interface ProbeAttempt {
  readonly name: string;
  /** 0: the attempt succeeded. 1 (EPERM) is the filter's answer. */
  readonly errno: number;
}

/** Flags of a token that tell how it takes its PIN, and how many wrong ones it has seen (PKCS#11 v2.40, CK_TOKEN_INFO). */
export const TOKEN_FLAG = {
  protectedPath: 0x100,
  userPinCountLow: 0x10000,
  userPinFinalTry: 0x20000,
  userPinLocked: 0x40000,
} as const;

export interface ShimSlot {
  readonly slotId: bigint;
  readonly label: string;
  readonly manufacturer: string;
  readonly model: string;
  readonly serial: string;
  /** CKF_... of the token. PKCS#11 defines the lower 32 bits; the others are left out. */
  readonly flags: number;
  readonly firmware: string;
  readonly hardware: string;
}

export interface LoadedLibrary {
  readonly cryptoki: string;
  readonly manufacturer: string;
  readonly description: string;
  readonly version: string;
  readonly slots: readonly ShimSlot[];
  /** Paths of every object that the loader mapped, the shim's own program not among them. */
  readonly objects: readonly string[];
}

/** Boolean attributes of a key, in the order of their bits on the wire. */
export const KEY_FLAGS = [
  "sign",
  "decrypt",
  "unwrap",
  "sensitive",
  "extractable",
  "alwaysSensitive",
  "neverExtractable",
  "local",
  "alwaysAuthenticate",
  "signRecover",
  "derive",
  "wrap",
] as const;
export type KeyFlag = (typeof KEY_FLAGS)[number];

/** CKO_PRIVATE_KEY and CKO_SECRET_KEY. */
export const KEY_CLASSES = { private: 3, secret: 4 } as const;
export type KeyClass = keyof typeof KEY_CLASSES;

/** A key as the library describes it. Public parts come from the public object with the same CKA_ID and type; a secret key has none. */
export interface ShimKey {
  readonly handle: bigint;
  readonly objectClass: KeyClass;
  /** CKK_...: 0 RSA, 3 EC, 31 AES. */
  readonly keyType: bigint;
  readonly id: Uint8Array;
  readonly label: string;
  /** A flag that the library does not tell is absent. */
  readonly flags: ReadonlyMap<KeyFlag, boolean>;
  /** Big-endian; empty when the key has none. */
  readonly modulus: Uint8Array;
  readonly exponent: Uint8Array;
  /** DER: a named curve's OID, and the point as OCTET STRING. Empty when the key has none. */
  readonly ecParams: Uint8Array;
  readonly ecPoint: Uint8Array;
}

/** Throws PolicyError ERR_BYTES_* or AgentError ERR_SHIM_PROTOCOL, as all parsers here do; the caller closes the shim. */
export function parseReady(payload: Uint8Array): ShimReady {
  const reader = new ByteReader(payload, "READY");
  const ready = { landlockAbi: reader.u32("landlock abi"), filters: reader.u8("filters") };
  reader.end();
  return ready;
}

export function parseProbe(payload: Uint8Array): readonly ProbeAttempt[] {
  const reader = new ByteReader(payload, "PROBE");
  const attempts = times(reader.u16("count"), () => ({
    name: text(reader.sized16("name", 64)),
    errno: reader.u32("errno"),
  }));
  reader.end();
  return attempts;
}

export function parseLoaded(payload: Uint8Array): LoadedLibrary {
  const reader = new ByteReader(payload, "LOAD");
  const cryptoki = version(reader);
  const manufacturer = padded(reader, 32);
  const description = padded(reader, 32);
  const library = version(reader);
  const slots = times(reader.u8("slots"), () => parseSlot(reader));
  const objects = times(reader.u16("objects"), () => text(reader.sized16("object", 4096)));
  reader.end();
  return { cryptoki, manufacturer, description, version: library, slots, objects };
}

function parseSlot(reader: ByteReader): ShimSlot {
  return {
    slotId: reader.u64("slot id"),
    label: padded(reader, 32),
    manufacturer: padded(reader, 32),
    model: padded(reader, 16),
    serial: padded(reader, 16),
    flags: Number(BigInt.asUintN(32, reader.u64("flags"))),
    firmware: version(reader),
    hardware: version(reader),
  };
}

export function parseKeys(payload: Uint8Array): readonly ShimKey[] {
  const reader = new ByteReader(payload, "KEYS");
  const keys = times(reader.u16("count"), () => parseKey(reader));
  reader.end();
  return keys;
}

function parseKey(reader: ByteReader): ShimKey {
  const handle = reader.u64("handle");
  const objectClass = keyClass(reader.u64("class"));
  const keyType = reader.u64("key type");
  const id = reader.sized16("id", 256);
  const label = text(reader.sized16("label", 256));
  const set = reader.u32("flags");
  const known = reader.u32("known flags");
  if ((set & ~known) !== 0 || known >>> KEY_FLAGS.length !== 0) {
    throw new AgentError("ERR_SHIM_PROTOCOL", "KEYS flags", { expected: "flags of the table, set only where known" });
  }
  const key = {
    handle,
    objectClass,
    keyType,
    id,
    label,
    flags: new Map(
      KEY_FLAGS.flatMap((flag, bit): [KeyFlag, boolean][] =>
        (known >>> bit) & 1 ? [[flag, ((set >>> bit) & 1) === 1]] : [],
      ),
    ),
    modulus: reader.sized16("modulus", 2048),
    exponent: reader.sized16("exponent", 2048),
    ecParams: reader.sized16("ecParams", 2048),
    ecPoint: reader.sized16("ecPoint", 2048),
  };
  const parts = key.modulus.length + key.exponent.length + key.ecParams.length + key.ecPoint.length;
  if (objectClass === "secret" && parts > 0) {
    throw new AgentError("ERR_SHIM_PROTOCOL", "KEYS secret key", { expected: "no public part", got: `${parts} bytes` });
  }
  return key;
}

function keyClass(value: bigint): KeyClass {
  switch (value) {
    case BigInt(KEY_CLASSES.private):
      return "private";
    case BigInt(KEY_CLASSES.secret):
      return "secret";
    default:
      throw new AgentError("ERR_SHIM_PROTOCOL", "KEYS class", { expected: "3 or 4", got: `${value}` });
  }
}

export function parseFilters(payload: Uint8Array): number {
  const reader = new ByteReader(payload, "ARM");
  const filters = reader.u8("filters");
  reader.end();
  return filters;
}

export function parseStatus(payload: Uint8Array): bigint {
  const reader = new ByteReader(payload, "STATUS");
  const operations = reader.u64("operations");
  reader.end();
  return operations;
}

/** Largest signature and largest plaintext. */
const MAX_RESULT = 8192;

export function parseSignature(payload: Uint8Array): Uint8Array {
  if (payload.length === 0 || payload.length > MAX_RESULT)
    throw new AgentError("ERR_SHIM_PROTOCOL", "SIGN signature", {
      expected: "1 to 8192 bytes",
      got: `${payload.length}`,
    });
  return payload;
}

/** An empty plaintext is one. */
export function parsePlaintext(payload: Uint8Array): Uint8Array {
  if (payload.length > MAX_RESULT)
    throw new AgentError("ERR_SHIM_PROTOCOL", "DECRYPT plaintext", {
      expected: "8192 bytes at most",
      got: `${payload.length}`,
    });
  return payload;
}

/** The handle of a key that was unwrapped; 0 is none (CK_INVALID_HANDLE). */
export function parseHandle(payload: Uint8Array): bigint {
  const reader = new ByteReader(payload, "UNWRAP");
  const handle = reader.u64("handle");
  reader.end();
  if (handle === 0n) throw new AgentError("ERR_SHIM_PROTOCOL", "UNWRAP handle", { expected: "not 0", got: "0" });
  return handle;
}

/** An answer that carries nothing. */
export function parseNothing(payload: Uint8Array): void {
  new ByteReader(payload, "reply").end();
}

function version(reader: ByteReader): string {
  const major = reader.u8("version");
  return `${major}.${reader.u8("version")}`;
}

/** PKCS#11 pads texts with blanks; some libraries with NUL. */
function padded(reader: ByteReader, length: number): string {
  return text(reader.bytes(length, "text")).replace(/[ \0]+$/, "");
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function times<T>(length: number, make: () => T): T[] {
  return Array.from({ length }, make);
}
