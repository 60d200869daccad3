import { createHash } from "node:crypto";
import { concatBytes, utf8 } from "../../policy/index.ts";

export const noActionType = 3;
export const separatorType = 4;

/** TPM_ALG_ID and digest size of the banks that firmware has. */
const algorithms = {
  sha1: [0x0004, 20],
  sha256: [0x000b, 32],
  sha384: [0x000c, 48],
  sha512: [0x000d, 64],
  sm3: [0x0012, 32],
} as const;
export type LogBank = keyof typeof algorithms;

/** Writes well-formed crypto-agile logs; the pieces are public so that a test can put them together wrongly. */
export function u16le(value: number): Uint8Array {
  return Uint8Array.of(value & 0xff, (value >> 8) & 0xff);
}

export function u32le(value: number): Uint8Array {
  return concatBytes(u16le(value & 0xffff), u16le(value >>> 16));
}

export function u64le(value: number): Uint8Array {
  return concatBytes(u32le(value >>> 0), u32le(Math.floor(value / 2 ** 32)));
}

export function logHeader(
  banks: readonly [number, number][] = [
    [0x000b, 32],
    [0x000c, 48],
  ],
  count = banks.length,
  vendorInfo: Uint8Array = new Uint8Array(),
): Uint8Array {
  const spec = concatBytes(
    utf8("Spec ID Event03\0"),
    u32le(0),
    Uint8Array.of(0, 2, 0, 2),
    u32le(count),
    ...banks.map(([algorithm, size]) => concatBytes(u16le(algorithm), u16le(size))),
    Uint8Array.of(vendorInfo.length),
    vendorInfo,
  );
  return concatBytes(u32le(0), u32le(noActionType), new Uint8Array(20), u32le(spec.length), spec);
}

export function logEvent(
  pcr: number,
  type: number,
  data: Uint8Array,
  banks: readonly LogBank[] = ["sha256", "sha384"],
): Uint8Array {
  return rawEvent(pcr, type, data, banks, (bank) => (type === noActionType ? null : digestIn(bank, data)));
}

export function digestIn(bank: LogBank, bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(createHash(bank).update(bytes).digest());
}

/** @param digest `null`: zeros */
export function rawEvent(
  pcr: number,
  type: number,
  data: Uint8Array,
  banks: readonly LogBank[],
  digest: (bank: LogBank) => Uint8Array | null,
): Uint8Array {
  const digests = banks.map((bank) => {
    const [algorithm, size] = algorithms[bank];
    return concatBytes(u16le(algorithm), digest(bank) ?? new Uint8Array(size));
  });
  return concatBytes(u32le(pcr), u32le(type), u32le(banks.length), ...digests, u32le(data.length), data);
}

/** One event of a platform. `measured`: what was hashed where that is not the event's data, e.g. an image. */
export interface LogEntry {
  readonly pcr: number;
  readonly type: number;
  readonly data: Uint8Array;
  readonly measured?: Uint8Array;
}

export interface PlatformLog {
  readonly banks: readonly LogBank[];
  readonly entries: readonly LogEntry[];
  readonly vendorInfo?: Uint8Array;
  /** How the platform makes a bank's digest; by default it hashes in that bank. */
  readonly digest?: (bank: LogBank, measured: Uint8Array) => Uint8Array;
}

export function encodeLog({ banks, entries, vendorInfo, digest = digestIn }: PlatformLog): Uint8Array {
  const header = logHeader(
    banks.map((bank) => [...algorithms[bank]]),
    banks.length,
    vendorInfo,
  );
  const events = entries.map(({ pcr, type, data, measured = data }) =>
    rawEvent(pcr, type, data, banks, (bank) => (type === noActionType ? null : digest(bank, measured))),
  );
  return concatBytes(header, ...events);
}

export function localityEntry(locality: number): LogEntry {
  return {
    pcr: 0,
    type: noActionType,
    data: concatBytes(utf8("StartupLocality\0"), Uint8Array.of(locality)),
  };
}

export function startupLocality(locality: number): Uint8Array {
  return logEvent(0, noActionType, localityEntry(locality).data);
}

/** A log like a small machine's: firmware in 0 to 7 with separators, then loader, initrd, kernel and command line. */
export function typicalLog(): Uint8Array {
  return concatBytes(
    logHeader(),
    logEvent(0, 8, utf8("firmware version")),
    logEvent(0, 0x80000008, utf8("firmware volume")),
    logEvent(7, 0x80000001, utf8("SecureBoot")),
    ...[0, 1, 2, 3, 4, 5, 6, 7].map((pcr) => logEvent(pcr, separatorType, new Uint8Array(4))),
    logEvent(4, 0x80000003, utf8("unified kernel image")),
    logEvent(11, 0xd, utf8(".linux")),
    logEvent(12, 0xd, utf8("command line")),
    logEvent(9, 6, utf8("initrd")),
  );
}
