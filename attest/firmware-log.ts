import { ByteReader, equalBytes, utf8 } from "../policy/index.ts";
import { bankAlgorithm, bankOfAlgorithm, bankSize, extendPcr, hashInBank, type PcrBank, resetValue } from "./banks.ts";
import { AttestError } from "./errors.ts";
import { firmwareEventName } from "./firmware-event-names.ts";

const maxLog = 1 << 20;
const maxEvents = 4096;
const maxEventData = 512 << 10;
const maxAlgorithms = 16;
/** Of a hash that no table here lists. TPMT_HA of today's TPMs holds 64 bytes. */
const maxDigest = 128;
const noAction = 0x3;
const hcrtmEvent = 0x80000010;
/** What EV_SEPARATOR measures when nothing went wrong; SeaBIOS writes the second one. */
const separators: readonly Uint8Array[] = [new Uint8Array(4), new Uint8Array(4).fill(0xff)];

/** Digest sizes by TPM_ALG_ID: SHA-1, SHA-256, SHA-384, SHA-512, SM3, SHA3-256, SHA3-384, SHA3-512. */
const digestSizes: ReadonlyMap<number, number> = new Map([
  [0x0004, 20],
  [0x000b, 32],
  [0x000c, 48],
  [0x000d, 64],
  [0x0012, 32],
  [0x0027, 32],
  [0x0028, 48],
  [0x0029, 64],
]);

export interface FirmwareEvent {
  readonly pcr: number;
  /** TCG event type. Neither it nor `data` is authenticated: only the digests are, and only they are judged. */
  readonly type: number;
  /** Plain words, `null` for a type that the profile does not list: vendors have their own, and they replay as well. */
  readonly name: string | null;
  /** By TPM_ALG_ID. An event may lack a bank of the header (Windows extends one bank only); see `replayFirmwareLog`. */
  readonly digests: ReadonlyMap<number, Uint8Array>;
  readonly data: Uint8Array;
}

export interface FirmwareLog {
  /** TPM_ALG_IDs of the banks, as the header lists them. */
  readonly algorithms: readonly number[];
  readonly events: readonly FirmwareEvent[];
  /** The last byte of PCR 0's start value: locality of TPM2_Startup, or 4 after an H-CRTM. */
  readonly startupLocality: number;
}

/** A bank of the header and the size of its digests. */
type Banks = ReadonlyMap<number, number>;

/**
 * Reads a TCG PC Client crypto-agile event log (`binary_bios_measurements`). Strict and bounded: at most 1 MiB, 4096
 * events, of each event at most one digest for each of the header's banks. An empty log is refused, not an empty list.
 * Does not establish that any of it happened: compare `replayFirmwareLog` with a quote. FIRMWARE-LOG.md has what real
 * machines write, and what is refused and why.
 * @throws AttestError `ERR_FIRMWARE_LOG`, PolicyError `ERR_BYTES_*`
 */
export function parseFirmwareLog(bytes: Uint8Array): FirmwareLog {
  if (bytes.length === 0) throw malformed("size", "a log", "zero bytes");
  if (bytes.length > maxLog) throw malformed("size", `at most ${maxLog} bytes`, `${bytes.length}`);
  const reader = new ByteReader(bytes, "firmware log");
  const banks = parseHeader(reader);
  const events: FirmwareEvent[] = [];
  while (reader.remaining > 0) {
    if (events.length === maxEvents) throw malformed("events", `at most ${maxEvents}`);
    events.push(parseEvent(reader, banks, events.length));
  }
  return { algorithms: [...banks.keys()], events, startupLocality: findStartupLocality(events) };
}

/** The first event is in the old format and says which banks the others carry. */
function parseHeader(reader: ByteReader): Banks {
  expectNumber("header pcr", 0, reader.u32le("header pcr"));
  const type = reader.u32le("header type");
  if (type !== noAction) throw malformed("header type", `${noAction} (a SHA-1-only log is refused)`, `${type}`);
  if (reader.bytes(20, "header digest").some((byte) => byte !== 0)) throw malformed("header digest", "zeros");
  const spec = new ByteReader(reader.bytes(reader.u32le("header size"), "header"), "TCG_EfiSpecIdEvent");
  if (!equalBytes(spec.bytes(16, "signature"), utf8("Spec ID Event03\0"))) {
    throw malformed("header signature", "Spec ID Event03 (a SHA-1-only log is refused)");
  }
  spec.u32le("platformClass");
  expectNumber("header specVersionMinor", 0, spec.u8("specVersionMinor"));
  expectNumber("header specVersionMajor", 2, spec.u8("specVersionMajor"));
  spec.u8("specErrata");
  spec.u8("uintnSize");
  const banks = parseAlgorithms(spec);
  spec.bytes(spec.u8("vendorInfoSize"), "vendorInfo");
  spec.end();
  return banks;
}

/** An unknown hash is no bank of ours, but its size is needed to step over its digests. */
function parseAlgorithms(spec: ByteReader): Banks {
  const count = spec.u32le("numberOfAlgorithms");
  if (count === 0 || count > maxAlgorithms)
    throw malformed("header numberOfAlgorithms", `1 to ${maxAlgorithms}`, `${count}`);
  const banks = new Map<number, number>();
  for (let index = 0; index < count; index++) {
    const algorithm = spec.u16le("algorithmId");
    const size = spec.u16le("digestSize");
    expectNumber("header digestSize", digestSizes.get(algorithm) ?? size, size);
    if (size === 0 || size > maxDigest) throw malformed("header digestSize", `1 to ${maxDigest}`, `${size}`);
    if (banks.has(algorithm)) throw malformed("header algorithmId", "each bank once", `${algorithm} twice`);
    banks.set(algorithm, size);
  }
  return banks;
}

function parseEvent(reader: ByteReader, banks: Banks, index: number): FirmwareEvent {
  const what = `event ${index}`;
  const pcr = reader.u32le(`${what} pcr`);
  const type = reader.u32le(`${what} type`);
  // Notes may stand under an index that is no PCR; they extend nothing.
  if (pcr > 23 && type !== noAction) throw malformed(`${what} pcr`, "0 to 23", `${pcr}`);
  const digests = parseDigests(reader, banks, what);
  if (digests.size === 0 && type !== noAction) throw malformed(`${what} digest count`, "a digest", "none");
  const size = reader.u32le(`${what} size`);
  if (size > maxEventData) throw malformed(`${what} size`, `at most ${maxEventData}`, `${size}`);
  return { pcr, type, name: firmwareEventName(type), digests, data: reader.bytes(size, `${what} data`) };
}

function parseDigests(reader: ByteReader, banks: Banks, what: string): ReadonlyMap<number, Uint8Array> {
  const count = reader.u32le(`${what} digest count`);
  if (count > banks.size) throw malformed(`${what} digest count`, `at most ${banks.size}`, `${count}`);
  const digests = new Map<number, Uint8Array>();
  for (let digest = 0; digest < count; digest++) {
    const algorithm = reader.u16le(`${what} hashAlg`);
    const size = banks.get(algorithm);
    if (size === undefined) throw malformed(`${what} hashAlg`, "a bank of the header", `${algorithm}`);
    if (digests.has(algorithm)) throw malformed(`${what} hashAlg`, "each bank once", `${algorithm} twice`);
    digests.set(algorithm, reader.bytes(size, `${what} digest`));
  }
  return digests;
}

/**
 * Where PCR 0 starts. StartupLocality says it, only once and before anything was extended there. Without it, an H-CRTM
 * event that is the first of PCR 0 means 4 (TPM 2.0 Part 1, "H-CRTM Event Sequence"). Both are anybody's word: the
 * quote of PCR 0 confirms the value or does not.
 */
function findStartupLocality(events: readonly FirmwareEvent[]): number {
  const signature = utf8("StartupLocality\0");
  const isStartup = (event: FirmwareEvent) =>
    event.type === noAction && event.data.length >= 16 && equalBytes(event.data.subarray(0, 16), signature);
  const found = events.filter(isStartup);
  const [only] = found;
  const firstExtend = events.findIndex((event) => event.pcr === 0 && event.type !== noAction);
  if (only === undefined) return events[firstExtend]?.type === hcrtmEvent ? 4 : 0;
  const locality = only.data[16];
  if (found.length > 1) throw malformed("StartupLocality", "once", `${found.length} times`);
  if (only.pcr !== 0 || only.data.length !== 17) throw malformed("StartupLocality", "17 bytes for PCR 0");
  if (locality !== 0 && locality !== 3 && locality !== 4)
    throw malformed("StartupLocality", "0, 3 or 4", `${locality}`);
  if (firstExtend !== -1 && firstExtend < events.indexOf(only))
    throw malformed("StartupLocality", "before PCR 0 is extended");
  return locality;
}

/**
 * PCR values that the log explains in one bank; only PCRs that it extends, and PCR 0 when the locality moves it.
 * @throws AttestError `ERR_FIRMWARE_LOG` for a bank that the log, or one of its events that extend, does not have: what
 * such an event did to the bank is not known
 */
export function replayFirmwareLog(log: FirmwareLog, bank: PcrBank): ReadonlyMap<number, Uint8Array> {
  const algorithm = log.algorithms.find((candidate) => bankOfAlgorithm(candidate) === bank);
  if (algorithm === undefined) throw malformed("banks", bank, log.algorithms.join(", "));
  const pcrs = new Map<number, Uint8Array>();
  if (log.startupLocality !== 0) pcrs.set(0, startValue(log, bank, 0));
  for (const [index, event] of log.events.entries()) {
    if (event.type === noAction) continue;
    const digest = event.digests.get(algorithm);
    if (digest === undefined) throw malformed(`event ${index} digests`, bank, [...event.digests.keys()].join(", "));
    pcrs.set(event.pcr, extendPcr(bank, pcrs.get(event.pcr) ?? startValue(log, bank, event.pcr), digest));
  }
  return pcrs;
}

function startValue(log: FirmwareLog, bank: PcrBank, pcr: number): Uint8Array {
  const value = resetValue(bank, pcr);
  if (pcr === 0) value[bankSize(bank) - 1] = log.startupLocality;
  return value;
}

/**
 * PCRs 0 to 7 that do not have exactly one separator: firmware did not say where its part of the boot ended. A separator
 * is known by its digest in the bank; what an event calls itself is anybody's word.
 */
export function pcrsWithoutOneSeparator(log: FirmwareLog, bank: PcrBank): readonly number[] {
  const expected = separators.map((data) => hashInBank(bank, data));
  const isSeparator = ({ type, digests }: FirmwareEvent) => {
    const digest = digests.get(bankAlgorithm(bank));
    return type !== noAction && digest !== undefined && expected.some((wanted) => equalBytes(wanted, digest));
  };
  const found = log.events.filter(isSeparator).map(({ pcr }) => pcr);
  return [0, 1, 2, 3, 4, 5, 6, 7].filter((pcr) => found.filter((other) => other === pcr).length !== 1);
}

function expectNumber(what: string, expected: number, got: number): void {
  if (got !== expected) throw malformed(what, `${expected}`, `${got}`);
}

function malformed(what: string, expected: string, got?: string): AttestError {
  return new AttestError("ERR_FIRMWARE_LOG", `firmware log ${what}`, {
    expected,
    ...(got === undefined ? {} : { got }),
  });
}
