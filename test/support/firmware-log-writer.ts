import { hashInBank, type PcrBank } from "../../attest/banks.ts";
import { concatBytes, utf8 } from "../../policy/index.ts";

export const noActionType = 3;
export const separatorType = 4;
const algorithms = { sha256: 0x000b, sha384: 0x000c } as const;

/** Writes well-formed crypto-agile logs; the pieces are public so that a test can put them together wrongly. */
export function u16le(value: number): Uint8Array {
  return Uint8Array.of(value & 0xff, (value >> 8) & 0xff);
}

export function u32le(value: number): Uint8Array {
  return concatBytes(u16le(value & 0xffff), u16le(value >>> 16));
}

export function logHeader(
  banks: readonly [number, number][] = [
    [0x000b, 32],
    [0x000c, 48],
  ],
  count = banks.length,
): Uint8Array {
  const spec = concatBytes(
    utf8("Spec ID Event03\0"),
    u32le(0),
    Uint8Array.of(0, 2, 0, 2),
    u32le(count),
    ...banks.map(([algorithm, size]) => concatBytes(u16le(algorithm), u16le(size))),
    Uint8Array.of(0),
  );
  return concatBytes(u32le(0), u32le(noActionType), new Uint8Array(20), u32le(spec.length), spec);
}

export function logEvent(
  pcr: number,
  type: number,
  data: Uint8Array,
  banks: readonly PcrBank[] = ["sha256", "sha384"],
): Uint8Array {
  const digests = banks.map((bank) => {
    const digest = hashInBank(bank, data);
    return concatBytes(u16le(algorithms[bank]), type === noActionType ? digest.fill(0) : digest);
  });
  return concatBytes(u32le(pcr), u32le(type), u32le(banks.length), ...digests, u32le(data.length), data);
}

export function startupLocality(locality: number): Uint8Array {
  return logEvent(0, noActionType, concatBytes(utf8("StartupLocality\0"), Uint8Array.of(locality)));
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
