import { ByteReader, type MechanismParameters, type MechanismRow } from "../../policy/index.ts";
import { mechanismByValue } from "../broker/mechanisms.ts";
import { malformed, readByteString, readFlag } from "./attributes.ts";

const NULL_LENGTH = 0xffff_ffff;
const PSS_BYTES = 24;
const KEY_BYTES = 8;
const MAX_LABEL = 65_536;

/** A NULL mechanism pointer: the operation is to be cancelled. */
interface Cancel {
  readonly kind: "cancel";
}

/** A mechanism as C_DigestInit sends it (`M`). */
export type Mechanism =
  | Cancel
  | { readonly kind: "start"; readonly mechanism: bigint; readonly parameters: MechanismParameters };

/** A mechanism and a key handle as C_SignInit, C_VerifyInit and C_DecryptInit send them (`Mu`). */
export type MechanismAndKey =
  | Cancel
  | {
      readonly kind: "start";
      readonly mechanism: bigint;
      readonly parameters: MechanismParameters;
      readonly key: bigint;
    };

/**
 * Reads `Mu` at the end of a request. The parameters of a mechanism that no policy can name have an unknown form, but the key handle is
 * always the last 8 bytes, so such a request can still be refused with the right code.
 * @param version the answered protocol version: 2 has the `has_param` byte, 0 and 1 do not
 */
export function readMechanismAndKey(reader: ByteReader, version: number): MechanismAndKey {
  const mechanism = readUpTo(reader, version, KEY_BYTES);
  const key = reader.u64("key");
  if (mechanism.kind === "cancel") return mechanism;
  return { kind: "start", mechanism: mechanism.mechanism, parameters: mechanism.parameters, key };
}

/** Reads `M` at the end of a request. */
export function readLastMechanism(reader: ByteReader, version: number): Mechanism {
  return readUpTo(reader, version, 0);
}

/** @param after bytes that follow the mechanism */
function readUpTo(reader: ByteReader, version: number, after: number): Mechanism {
  const type = reader.u32("mechanism type");
  // A NULL mechanism has no parameters in any version.
  if (type === NULL_LENGTH) return { kind: "cancel" };
  if (reader.remaining < after) {
    throw malformed("mechanism", `parameters and ${after} bytes`, `${reader.remaining} bytes`);
  }
  const bytes = reader.bytes(reader.remaining - after, "mechanism parameters");
  const mechanism = BigInt(type);
  return { kind: "start", mechanism, parameters: readParameters(mechanismByValue(mechanism), bytes, version) };
}

/** `M` where other arguments follow. Parameters are null where their form is unknown, and then nothing more can be read. */
export function readMechanism(
  reader: ByteReader,
  version: number,
): { readonly mechanism: bigint; readonly parameters: MechanismParameters | null } {
  const mechanism = BigInt(reader.u32("mechanism type"));
  const row = mechanismByValue(mechanism);
  if (row === null || row.parameters === "pss") return { mechanism, parameters: null };
  if (row.parameters === "oaep") return { mechanism, parameters: readOaepParameters(reader, version) };
  if (version < 2 && reader.u32("parameter") !== NULL_LENGTH) return { mechanism, parameters: null };
  return { mechanism, parameters: { kind: "none" } };
}

function readParameters(row: MechanismRow | null, bytes: Uint8Array, version: number): MechanismParameters {
  switch (row?.parameters) {
    case "pss":
      return readPss(bytes, version);
    case "oaep":
      return readOaep(bytes, version);
    case "none":
    case undefined:
      return readPlain(bytes, version);
  }
}

function readPlain(bytes: Uint8Array, version: number): MechanismParameters {
  if (version >= 2) return { kind: bytes.length === 0 ? "none" : "opaque" };
  const isNull = bytes.length === 4 && new ByteReader(bytes, "mechanism").u32("parameter") === NULL_LENGTH;
  return { kind: isNull ? "none" : "opaque" };
}

function readPss(bytes: Uint8Array, version: number): MechanismParameters {
  const reader = new ByteReader(bytes, "CK_RSA_PKCS_PSS_PARAMS");
  if (version >= 2 && !readFlag(reader, "has_param")) {
    reader.end();
    return { kind: "none" };
  }
  if (reader.remaining !== PSS_BYTES) throw malformed("PSS parameters", `${PSS_BYTES} bytes`, `${reader.remaining}`);
  return { kind: "pss", hash: reader.u64("hashAlg"), mgf: reader.u64("mgf"), saltLength: reader.u64("sLen") };
}

/** CK_RSA_PKCS_OAEP_PARAMS. A NULL label is the empty one. */
function readOaep(bytes: Uint8Array, version: number): MechanismParameters {
  const reader = new ByteReader(bytes, "CK_RSA_PKCS_OAEP_PARAMS");
  const parameters = readOaepParameters(reader, version);
  reader.end();
  return parameters;
}

function readOaepParameters(reader: ByteReader, version: number): MechanismParameters {
  if (version >= 2 && !readFlag(reader, "has_param")) return { kind: "none" };
  const hash = reader.u64("hashAlg");
  const mgf = reader.u64("mgf");
  const source = reader.u64("source");
  const label = readByteString(reader, "sourceData", MAX_LABEL) ?? new Uint8Array();
  return { kind: "oaep", hash, mgf, source, label };
}
