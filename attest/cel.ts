import { AGENT_PCR, type CborMap, type CborValue, decodeCbor, encodeCbor, toHex } from "../policy/index.ts";
import {
  bankAlgorithm,
  extendPcrWithAll,
  hashInBank,
  isHashInBank,
  type PcrBank,
  pcrBanks,
  resetValue,
} from "./banks.ts";
import { readPlainCel } from "./cel-reader.ts";
import { AttestError } from "./errors.ts";
import { alignedCopy, type KnownLog } from "./known-log.ts";
import { encodeLaunchEvent, type LaunchEvent, launchEventDigests, parseLaunchEvent } from "./launch-events.ts";

/** CEL content type of our launch events; named "ironclaw" in text. */
const celContentType = 200;
const maxLog = 1 << 20;
/** A record has 21 items and at least 160 bytes: no log of that size has more. */
const maxItems = 1 + 21 * Math.floor(maxLog / 160);

/** One record of a TCG Canonical Event Log 1.1, for the agent PCR. */
export interface CelRecord {
  /** Counts from 0. */
  readonly recnum: number;
  readonly pcr: number;
  readonly digests: Readonly<Record<PcrBank, Uint8Array>>;
  readonly event: LaunchEvent;
}

/** The record of an event: its digests are over the encoded event, so nothing in it is unauthenticated. */
export function celRecord(recnum: number, pcr: number, event: LaunchEvent): CelRecord {
  return { recnum, pcr, digests: launchEventDigests(event), event };
}

export function encodeCel(records: readonly CelRecord[]): Uint8Array {
  return encodeCbor(
    records.map(
      (record) =>
        new Map<number, CborValue>([
          [0, record.recnum],
          [1, record.pcr],
          [3, pcrBanks.map((bank) => digestEntry(bank, record.digests[bank]))],
          [9, celContentType],
          [10, encodeLaunchEvent(record.event)],
        ]),
    ),
  );
}

function digestEntry(bank: PcrBank, digest: Uint8Array): CborMap {
  return new Map<number, CborValue>([
    [0, bankAlgorithm(bank)],
    [1, digest],
  ]);
}

/** A log that was read. */
export interface AgentLog extends Pick<KnownLog, "bytes" | "records"> {
  /** What it was known to begin with. */
  readonly begins: KnownLog | null;
}

/**
 * Reads the agent's log: records numbered from 0, for the agent PCR only, content type 200, a digest for every bank and
 * each the hash of the content. Does not establish that any TPM extended them: compare `replayCel` with a quote.
 * @throws AttestError `ERR_CEL_MALFORMED`, `ERR_LAUNCH_EVENT`, PolicyError `ERR_CBOR_MALFORMED`
 */
export function parseCel(bytes: Uint8Array): readonly CelRecord[] {
  return readCel(bytes, []).records;
}

/** `parseCel`, where the log may begin in one of these ways: the same records and the same refusals, sooner. @throws as `parseCel` */
export function readCel(bytes: Uint8Array, known: readonly KnownLog[]): AgentLog {
  const copy = bytes.length > maxLog ? null : alignedCopy(bytes);
  const plain = copy === null ? null : readPlainCel(copy, known);
  if (copy === null || plain === null) return { begins: null, bytes: new Uint8Array(), records: decodeCel(bytes) };
  const { begins, rest, head } = plain;
  const first = begins?.records.length ?? 0;
  const read = rest.map(({ content, event, sha256, sha384 }, index) => ({
    recnum: first + index,
    pcr: AGENT_PCR,
    digests: {
      sha256: checkDigest(first + index, "sha256", sha256, content),
      sha384: checkDigest(first + index, "sha384", sha384, content),
    },
    event,
  }));
  return { begins, bytes: copy.subarray(head), records: begins === null ? read : [...begins.records, ...read] };
}

/** `parseCel` by the CBOR decoder: the same for every log, and it names what is wrong. */
export function decodeCel(bytes: Uint8Array): readonly CelRecord[] {
  const log = decodeCbor(bytes, {
    bytes: maxLog,
    string: 8192,
    items: maxItems,
    depth: 4,
  });
  if (!Array.isArray(log)) throw malformed("log", "an array of records");
  return log.map(parseRecord);
}

function parseRecord(value: CborValue, index: number): CelRecord {
  const what = `record ${index}`;
  if (!(value instanceof Map) || value.size !== 5) throw malformed(what, "a map of keys 0, 1, 3, 9 and 10");
  expectValue(`${what} recnum`, index, value.get(0));
  expectValue(`${what} pcr`, AGENT_PCR, value.get(1));
  expectValue(`${what} content_type`, celContentType, value.get(9));
  const content = value.get(10);
  if (!(content instanceof Uint8Array)) throw malformed(`${what} content`, "a byte string");
  const digests = parseDigests(index, value.get(3), content);
  return {
    recnum: index,
    pcr: AGENT_PCR,
    digests,
    event: parseLaunchEvent(content),
  };
}

function parseDigests(index: number, value: CborValue | undefined, content: Uint8Array): Record<PcrBank, Uint8Array> {
  const what = `record ${index}`;
  if (!Array.isArray(value) || value.length !== pcrBanks.length)
    throw malformed(`${what} digests`, `${pcrBanks.length} banks`);
  const digest = (bank: PcrBank) => {
    const entry: CborValue | undefined = (value as readonly CborValue[])[pcrBanks.indexOf(bank)];
    if (!(entry instanceof Map) || entry.size !== 2) throw malformed(`${what} ${bank}`, "a map of keys 0 and 1");
    expectValue(`${what} hashAlg`, bankAlgorithm(bank), entry.get(0));
    return checkDigest(index, bank, entry.get(1), content);
  };
  return { sha256: digest("sha256"), sha384: digest("sha384") };
}

function checkDigest(index: number, bank: PcrBank, found: CborValue | undefined, content: Uint8Array): Uint8Array {
  if (found instanceof Uint8Array && isHashInBank(bank, content, found)) return found;
  const expected = hashInBank(bank, content);
  const got = found instanceof Uint8Array ? toHex(found) : "no bytes";
  throw malformed(`record ${index} ${bank} digest`, toHex(expected), got);
}

/** The agent PCR that these records explain, from its reset value. */
export function replayCel(records: readonly CelRecord[], bank: PcrBank): Uint8Array {
  const digests = records.map((record) => record.digests[bank]);
  return extendPcrWithAll(bank, resetValue(bank, AGENT_PCR), digests);
}

/** `replayCel` of a log that was read, from where its beginning is known. */
export function replayLog({ records, begins }: Pick<AgentLog, "records" | "begins">, bank: PcrBank): Uint8Array {
  const start = begins?.pcrs.get(bank);
  if (begins === null || start === undefined) return replayCel(records, bank);
  const rest = records.slice(begins.records.length).map((record) => record.digests[bank]);
  return extendPcrWithAll(bank, start, rest);
}

/** CEL-JSON, one record a line: for people, `jq` and files. Never read back as evidence. */
export function renderCelJsonLines(records: readonly CelRecord[]): string {
  return records.map((record) => `${JSON.stringify(jsonRecord(record))}\n`).join("");
}

function jsonRecord(record: CelRecord): unknown {
  const { kind, name, sha256 } = record.event;
  return {
    recnum: record.recnum,
    pcr: record.pcr,
    digests: pcrBanks.map((bank) => ({
      hashAlg: bank,
      digest: toHex(record.digests[bank]),
    })),
    content_type: "ironclaw",
    content: { kind, name, sha256: toHex(sha256) },
  };
}

function expectValue(what: string, expected: number, got: CborValue | undefined): void {
  if (got !== expected) throw malformed(what, `${expected}`, typeof got === "number" ? `${got}` : typeof got);
}

function malformed(what: string, expected: string, got?: string): AttestError {
  return new AttestError("ERR_CEL_MALFORMED", `cel ${what}`, {
    expected,
    ...(got === undefined ? {} : { got }),
  });
}
