import { ByteReader, ByteWriter, concatBytes, sha256, sha384, sha512 } from "../policy/index.ts";
import { AttestError } from "./errors.ts";

/** TPM_ALG_ID values of the TCG Algorithm Registry that this project names. */
export const tpmAlg = {
  rsa: 0x0001,
  aes: 0x0006,
  sha256: 0x000b,
  sha384: 0x000c,
  sha512: 0x000d,
  null: 0x0010,
  rsassa: 0x0014,
  ecdsa: 0x0018,
  ecc: 0x0023,
  cfb: 0x0043,
} as const;

/** TPMA_OBJECT bits. */
export const objectAttribute = {
  fixedTpm: 0x2,
  fixedParent: 0x10,
  sensitiveDataOrigin: 0x20,
  userWithAuth: 0x40,
  restricted: 0x10000,
  decrypt: 0x20000,
  sign: 0x40000,
} as const;

export interface PcrSelection {
  /** TPM_ALG_ID of the bank. */
  readonly hash: number;
  /** Ascending. */
  readonly pcrs: readonly number[];
}

export interface ClockInfo {
  /** Milliseconds; obfuscated for keys outside the endorsement and platform hierarchies. */
  readonly clock: bigint;
  readonly resetCount: number;
  readonly restartCount: number;
  /** False: the clock may have gone back since an earlier report. */
  readonly safe: boolean;
}

/** TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE. */
export interface QuoteAttest {
  readonly qualifiedSigner: Uint8Array;
  readonly extraData: Uint8Array;
  readonly clockInfo: ClockInfo;
  readonly firmwareVersion: bigint;
  readonly selections: readonly PcrSelection[];
  readonly pcrDigest: Uint8Array;
}

/**
 * Reads TPMS_ATTEST of a quote: TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE, nothing behind.
 * Does not establish that any TPM made it: see `verifyEvidence`.
 * @throws AttestError `ERR_TPM_STRUCTURE`, PolicyError `ERR_BYTES_*`
 */
export function parseQuoteAttest(bytes: Uint8Array): QuoteAttest {
  const reader = new ByteReader(bytes, "TPMS_ATTEST");
  expectNumber("TPMS_ATTEST magic", 0xff544347, reader.u32("magic"), 8);
  expectNumber("TPMS_ATTEST type", 0x8018, reader.u16("type"), 4);
  const attest = {
    qualifiedSigner: reader.sized16("qualifiedSigner", 66),
    extraData: reader.sized16("extraData", 66),
    clockInfo: parseClockInfo(reader),
    firmwareVersion: reader.u64("firmwareVersion"),
    selections: parseSelections(reader),
    pcrDigest: reader.sized16("pcrDigest", 64),
  };
  reader.end();
  return attest;
}

export function parseClockInfo(reader: ByteReader): ClockInfo {
  const clock = reader.u64("clock");
  const resetCount = reader.u32("resetCount");
  const restartCount = reader.u32("restartCount");
  const safe = reader.u8("safe");
  if (safe > 1) throw structure("TPMS_CLOCK_INFO safe", "0 or 1", `${safe}`);
  return { clock, resetCount, restartCount, safe: safe === 1 };
}

function parseSelections(reader: ByteReader): readonly PcrSelection[] {
  const count = reader.u32("TPML_PCR_SELECTION count");
  if (count > 16) throw structure("TPML_PCR_SELECTION count", "at most 16", `${count}`);
  return Array.from({ length: count }, () => {
    const hash = reader.u16("hash");
    const size = reader.u8("sizeofSelect");
    if (size > 4) throw structure("TPMS_PCR_SELECTION sizeofSelect", "at most 4", `${size}`);
    const select = reader.bytes(size, "pcrSelect");
    const pcrs: number[] = [];
    for (let pcr = 0; pcr < 8 * size; pcr++) if (isSelected(select, pcr)) pcrs.push(pcr);
    return { hash, pcrs };
  });
}

function isSelected(select: Uint8Array, pcr: number): boolean {
  return (((select[pcr >> 3] ?? 0) >> (pcr & 7)) & 1) === 1;
}

export type TpmSignature =
  | {
      readonly kind: "ecdsa";
      readonly hash: number;
      readonly r: Uint8Array;
      readonly s: Uint8Array;
    }
  | {
      readonly kind: "rsassa";
      readonly hash: number;
      readonly signature: Uint8Array;
    };

/** Reads TPMT_SIGNATURE of the two schemes in use. @throws as `parseQuoteAttest` */
export function parseTpmSignature(bytes: Uint8Array): TpmSignature {
  const reader = new ByteReader(bytes, "TPMT_SIGNATURE");
  const scheme = reader.u16("sigAlg");
  const hash = reader.u16("hash");
  if (scheme === tpmAlg.ecdsa) {
    const signature = {
      kind: "ecdsa",
      hash,
      r: reader.sized16("r", 66),
      s: reader.sized16("s", 66),
    } as const;
    reader.end();
    return signature;
  }
  if (scheme !== tpmAlg.rsassa) throw structure("TPMT_SIGNATURE sigAlg", "ECDSA or RSASSA", hexNumber(scheme, 4));
  const signature = {
    kind: "rsassa",
    hash,
    signature: reader.sized16("sig", 512),
  } as const;
  reader.end();
  return signature;
}

export function encodeTpmSignature(signature: TpmSignature): Uint8Array {
  const writer = new ByteWriter();
  if (signature.kind === "ecdsa") {
    return writer.u16(tpmAlg.ecdsa).u16(signature.hash).sized16(signature.r).sized16(signature.s).finish();
  }
  return writer.u16(tpmAlg.rsassa).u16(signature.hash).sized16(signature.signature).finish();
}

/** Mode CFB; `null` stands for TPM_ALG_NULL (a key that is not a storage parent). */
export interface SymmetricParameters {
  readonly algorithm: number;
  readonly keyBits: number;
  readonly mode: number;
}

export interface SigningScheme {
  readonly scheme: number;
  readonly hash: number;
}

interface TpmPublicCommon {
  readonly nameAlg: number;
  readonly attributes: number;
  readonly authPolicy: Uint8Array;
  readonly symmetric: SymmetricParameters | null;
  readonly scheme: SigningScheme | null;
}

/** TPMT_PUBLIC of an ECC or RSA key. */
export type TpmPublic =
  | (TpmPublicCommon & {
      readonly kind: "ecc";
      readonly curve: number;
      readonly x: Uint8Array;
      readonly y: Uint8Array;
    })
  | (TpmPublicCommon & {
      readonly kind: "rsa";
      readonly keyBits: number;
      readonly exponent: number;
      readonly modulus: Uint8Array;
    });

/** Reads TPMT_PUBLIC (no TPM2B size in front). `exponent` 0 means 65537. @throws as `parseQuoteAttest` */
export function parseTpmPublic(bytes: Uint8Array): TpmPublic {
  const reader = new ByteReader(bytes, "TPMT_PUBLIC");
  const type = reader.u16("type");
  if (type !== tpmAlg.ecc && type !== tpmAlg.rsa) throw structure("TPMT_PUBLIC type", "RSA or ECC", hexNumber(type, 4));
  const common = {
    nameAlg: reader.u16("nameAlg"),
    attributes: reader.u32("objectAttributes"),
    authPolicy: reader.sized16("authPolicy", 64),
    symmetric: parseSymmetric(reader),
    scheme: parseScheme(reader),
  };
  const key = type === tpmAlg.ecc ? parseEccPart(reader) : parseRsaPart(reader);
  reader.end();
  return { ...common, ...key };
}

function parseSymmetric(reader: ByteReader): SymmetricParameters | null {
  const algorithm = reader.u16("symmetric");
  if (algorithm === tpmAlg.null) return null;
  return {
    algorithm,
    keyBits: reader.u16("keyBits"),
    mode: reader.u16("mode"),
  };
}

function parseScheme(reader: ByteReader): SigningScheme | null {
  const scheme = reader.u16("scheme");
  if (scheme === tpmAlg.null) return null;
  if (scheme !== tpmAlg.ecdsa && scheme !== tpmAlg.rsassa) {
    throw structure("TPMT_PUBLIC scheme", "ECDSA, RSASSA or none", hexNumber(scheme, 4));
  }
  return { scheme, hash: reader.u16("scheme hash") };
}

function parseEccPart(reader: ByteReader) {
  const curve = reader.u16("curveID");
  expectNumber("TPMT_PUBLIC kdf", tpmAlg.null, reader.u16("kdf"), 4);
  return {
    kind: "ecc",
    curve,
    x: reader.sized16("x", 66),
    y: reader.sized16("y", 66),
  } as const;
}

function parseRsaPart(reader: ByteReader) {
  const keyBits = reader.u16("keyBits");
  const exponent = reader.u32("exponent");
  return {
    kind: "rsa",
    keyBits,
    exponent,
    modulus: reader.sized16("modulus", 512),
  } as const;
}

export function encodeTpmPublic(key: TpmPublic): Uint8Array {
  const writer = new ByteWriter()
    .u16(key.kind === "ecc" ? tpmAlg.ecc : tpmAlg.rsa)
    .u16(key.nameAlg)
    .u32(key.attributes)
    .sized16(key.authPolicy);
  if (key.symmetric === null) writer.u16(tpmAlg.null);
  else writer.u16(key.symmetric.algorithm).u16(key.symmetric.keyBits).u16(key.symmetric.mode);
  if (key.scheme === null) writer.u16(tpmAlg.null);
  else writer.u16(key.scheme.scheme).u16(key.scheme.hash);
  if (key.kind === "rsa") return writer.u16(key.keyBits).u32(key.exponent).sized16(key.modulus).finish();
  return writer.u16(key.curve).u16(tpmAlg.null).sized16(key.x).sized16(key.y).finish();
}

/** The hash a TPM_ALG_ID names. @throws AttestError `ERR_TPM_STRUCTURE` for SHA-1 and the unknown */
function tpmHash(algorithm: number): (bytes: Uint8Array) => Uint8Array {
  if (algorithm === tpmAlg.sha256) return sha256;
  if (algorithm === tpmAlg.sha384) return sha384;
  if (algorithm === tpmAlg.sha512) return sha512;
  throw structure("hash algorithm", "SHA-256, SHA-384 or SHA-512", hexNumber(algorithm, 4));
}

/** The Name of an object: u16 nameAlg, then that hash of its TPMT_PUBLIC. */
export function tpmName(publicArea: Uint8Array): Uint8Array {
  const { nameAlg } = parseTpmPublic(publicArea);
  return concatBytes(new ByteWriter().u16(nameAlg).finish(), tpmHash(nameAlg)(publicArea));
}

/** The qualified Name of a primary key of the endorsement hierarchy: what a quote by it carries. */
export function endorsementPrimaryQualifiedName(publicArea: Uint8Array): Uint8Array {
  const { nameAlg } = parseTpmPublic(publicArea);
  const parent = new ByteWriter().u32(0x4000000b).finish();
  return concatBytes(
    new ByteWriter().u16(nameAlg).finish(),
    tpmHash(nameAlg)(concatBytes(parent, tpmName(publicArea))),
  );
}

function expectNumber(what: string, expected: number, got: number, digits: number): void {
  if (got !== expected) throw structure(what, hexNumber(expected, digits), hexNumber(got, digits));
}

function hexNumber(value: number, digits: number): string {
  return `0x${value.toString(16).padStart(digits, "0")}`;
}

function structure(what: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_TPM_STRUCTURE", what, { expected, got });
}
