import {
  ByteWriter,
  type CborKey,
  type CborValue,
  decodeCbor,
  encodeCbor,
  PolicyError,
  sha256,
  utf8,
} from "../policy/index.ts";
import { bankSize, type PcrBank, pcrBanks } from "./banks.ts";
import { evidenceProfile } from "./claims.ts";
import { AttestError } from "./errors.ts";

/** What a verifier asks for. `nonce`: 32 fresh random bytes, used once, for one machine. */
export interface Challenge {
  readonly nonce: Uint8Array;
  readonly bank: PcrBank;
  /** Ascending, each once. */
  readonly pcrs: readonly number[];
}

/** Firmware, boot loader, kernel, agent and shim-lock PCRs; not 8, 10 (used by other systems) and not the resettable ones. */
export const defaultQuotePcrs: readonly number[] = [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14];

/** The sections of a report, each byte-exact as it was received. Nothing inside them was looked at yet. */
export interface Evidence {
  /** TPMS_ATTEST */
  readonly quote: Uint8Array;
  /** TPMT_SIGNATURE */
  readonly signature: Uint8Array;
  /** TPMT_PUBLIC */
  readonly ak: Uint8Array;
  readonly pcrs: Uint8Array;
  readonly firmwareLog: Uint8Array;
  readonly agentLog: Uint8Array;
  readonly ekCertificates: Uint8Array;
  readonly claims: Uint8Array;
}

const evidenceIndicator = 4;
const maxEvidence = 4 << 20;
const collectionTypeKey = "__cmwc_t";

interface Section {
  readonly key: string;
  readonly field: keyof Evidence;
  readonly type: string;
  readonly cap: number;
}

const sections: readonly Section[] = [
  {
    key: "quote",
    field: "quote",
    type: "application/vnd.ironclaw.tpms-attest",
    cap: 1024,
  },
  {
    key: "signature",
    field: "signature",
    type: "application/vnd.ironclaw.tpmt-signature",
    cap: 1024,
  },
  {
    key: "ak",
    field: "ak",
    type: "application/vnd.ironclaw.tpmt-public",
    cap: 1024,
  },
  {
    key: "pcrs",
    field: "pcrs",
    type: "application/vnd.ironclaw.pcrs+cbor",
    cap: 4096,
  },
  {
    key: "firmware-log",
    field: "firmwareLog",
    type: "application/vnd.ironclaw.tcg-event-log",
    cap: 1 << 20,
  },
  {
    key: "agent-log",
    field: "agentLog",
    type: "application/vnd.ironclaw.cel+cbor",
    cap: 1 << 20,
  },
  {
    key: "ek-certificates",
    field: "ekCertificates",
    type: "application/vnd.ironclaw.ek-certificates+cbor",
    cap: 1 << 16,
  },
  {
    key: "claims",
    field: "claims",
    type: `application/eat-ucs+cbor; eat_profile="${evidenceProfile}"`,
    cap: 1 << 18,
  },
];

const knownKeys: ReadonlySet<CborKey> = new Set([collectionTypeKey, ...sections.map(({ key }) => key)]);

/** A report as a CMW collection (`application/cmw+cbor`). */
export function encodeEvidence(evidence: Evidence): Uint8Array {
  const collection = new Map<CborKey, CborValue>([[collectionTypeKey, evidenceProfile]]);
  for (const { key, field, type } of sections) collection.set(key, [type, evidence[field], evidenceIndicator]);
  return encodeCbor(collection);
}

/**
 * SHA-256 of each report that was parsed, by what `parseEvidence` returned: nobody else can put an entry here, and a copy with another
 * section is another object.
 */
const digests = new WeakMap<Evidence, Uint8Array>();

/** SHA-256 of the report as it was received; accepted bytes are the only bytes for their meaning, so encoding the sections gives the same. */
export function measureEvidence(evidence: Evidence): Uint8Array {
  return digests.get(evidence) ?? sha256(encodeEvidence(evidence));
}

/**
 * Splits a report into its sections. All of them must be there and no other: a prover cannot switch a check off by
 * leaving its input out. Establishes nothing about their content: see `verifyEvidence`.
 * @throws AttestError `ERR_EVIDENCE_MALFORMED`
 */
export function parseEvidence(bytes: Uint8Array): Evidence {
  const collection = decodeCollection(bytes);
  if (collection.get(collectionTypeKey) !== evidenceProfile) throw malformed(collectionTypeKey, evidenceProfile);
  const extra = [...collection.keys()].find((key) => !knownKeys.has(key));
  if (extra !== undefined) throw malformed("sections", "no other section", `${extra}`.slice(0, 80));
  const found = Object.fromEntries(
    sections.map((section) => [section.field, parseSection(collection.get(section.key), section)]),
  );
  const evidence: Evidence = Object.freeze(found as Record<keyof Evidence, Uint8Array>); // the table names every field
  digests.set(evidence, sha256(bytes));
  return evidence;
}

function decodeCollection(bytes: Uint8Array): ReadonlyMap<CborKey, CborValue> {
  let value: CborValue;
  try {
    value = decodeCbor(bytes, {
      bytes: maxEvidence,
      string: 1 << 20,
      items: 64,
      depth: 3,
    });
  } catch (error) {
    if (!(error instanceof PolicyError)) throw error;
    throw new AttestError("ERR_EVIDENCE_MALFORMED", `evidence: ${error.message}`, { cause: error });
  }
  if (!(value instanceof Map)) throw malformed("envelope", "a map");
  return value;
}

function parseSection(record: CborValue | undefined, section: Section): Uint8Array {
  const what = `section ${section.key}`;
  if (!Array.isArray(record)) throw malformed(what, "a record", record === undefined ? "nothing" : "something else");
  const [type, bytes, indicator, ...more]: readonly CborValue[] = record;
  if (type !== section.type) throw malformed(`${what} type`, section.type, String(type).slice(0, 100));
  if (!(bytes instanceof Uint8Array)) throw malformed(what, "a byte string");
  if (indicator !== evidenceIndicator || more.length > 0) throw malformed(`${what} indicator`, `${evidenceIndicator}`);
  if (bytes.length > section.cap) throw malformed(what, `at most ${section.cap} bytes`, `${bytes.length}`);
  return bytes;
}

const extraDataLabel = new ByteWriter().bytes(utf8("ironclaw/evidence/v1")).u8(0).finish();
const digestLength = new ByteWriter().u64(32n).finish();

/** The 32 bytes that a quote must carry as extraData (EVIDENCE.md section 2). */
export function measureExtraData(
  nonce: Uint8Array,
  evidence: Omit<Evidence, "quote" | "signature" | "pcrs">,
): Uint8Array {
  const writer = new ByteWriter().bytes(extraDataLabel).u64(BigInt(nonce.length)).bytes(nonce);
  const { ak, claims, agentLog, firmwareLog, ekCertificates } = evidence;
  for (const section of [ak, claims, agentLog, firmwareLog, ekCertificates])
    writer.bytes(digestLength).bytes(sha256(section));
  return sha256(writer.finish());
}

export interface PcrSection {
  readonly bank: PcrBank;
  readonly values: ReadonlyMap<number, Uint8Array>;
}

export function encodePcrs(section: PcrSection): Uint8Array {
  return encodeCbor(
    new Map<CborKey, CborValue>([
      ["bank", section.bank],
      ["values", section.values],
    ]),
  );
}

/** @throws AttestError `ERR_EVIDENCE_MALFORMED`, PolicyError `ERR_CBOR_MALFORMED` */
export function parsePcrs(bytes: Uint8Array): PcrSection {
  const map = decodeCbor(bytes, {
    bytes: 4096,
    string: 64,
    items: 64,
    depth: 3,
  });
  if (!(map instanceof Map) || map.size !== 2) throw malformed("pcrs", "a map of bank and values");
  const bank = pcrBanks.find((candidate) => candidate === map.get("bank"));
  if (bank === undefined) throw malformed("pcrs bank", pcrBanks.join(" or "));
  const found = map.get("values");
  if (!(found instanceof Map)) throw malformed("pcrs values", "a map");
  const values = new Map<number, Uint8Array>();
  for (const [pcr, value] of found as ReadonlyMap<CborKey, CborValue>) {
    if (typeof pcr !== "number" || pcr < 0 || pcr > 23) throw malformed("pcrs index", "0 to 23", `${pcr}`);
    if (!(value instanceof Uint8Array) || value.length !== bankSize(bank))
      throw malformed(`pcrs ${pcr}`, `${bankSize(bank)} bytes`);
    values.set(pcr, value);
  }
  return { bank, values };
}

export function encodeEkCertificates(certificates: readonly Uint8Array[]): Uint8Array {
  return encodeCbor(certificates);
}

/** DER certificates, the EK's first. Verifies none of them. @throws as `parsePcrs` */
export function parseEkCertificates(bytes: Uint8Array): readonly Uint8Array[] {
  const list = decodeCbor(bytes, {
    bytes: 1 << 16,
    string: 1 << 14,
    items: 9,
    depth: 2,
  });
  if (!Array.isArray(list)) throw malformed("ek-certificates", "an array");
  return list.map((certificate: CborValue) => {
    if (!(certificate instanceof Uint8Array)) throw malformed("ek-certificates", "byte strings");
    return certificate;
  });
}

function malformed(what: string, expected: string, got?: string): AttestError {
  return new AttestError("ERR_EVIDENCE_MALFORMED", `evidence ${what}`, {
    expected,
    ...(got === undefined ? {} : { got }),
  });
}
