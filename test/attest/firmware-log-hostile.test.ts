import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { authenticatedData } from "../../attest/firmware-events.ts";
import { parseFirmwareLog, pcrsWithoutOneSeparator, replayFirmwareLog } from "../../attest/firmware-log.ts";
import { concatBytes, IronclawError, joinBytes, utf8 } from "../../policy/index.ts";
import {
  localityEntry,
  logEvent,
  logHeader,
  noActionType,
  startupLocality,
  typicalLog,
  u16le,
  u32le,
} from "../support/firmware-log-writer.ts";

/** Parses, replays and looks at all there is: the log is taken, or refused with a typed error. */
function read(bytes: Uint8Array): "taken" | "refused" {
  try {
    const log = parseFirmwareLog(bytes);
    replayFirmwareLog(log, "sha256");
    pcrsWithoutOneSeparator(log, "sha256");
    for (const event of log.events) authenticatedData(event, "sha256");
    return "taken";
  } catch (error) {
    if (error instanceof IronclawError) return "refused";
    throw error;
  }
}

const real = new Uint8Array(readFileSync(join(import.meta.dirname, "../vectors/firmware-logs/systemd-boot-ovmf.bin")));

describe("hostile firmware logs", () => {
  it.each([
    ["a typical log", typicalLog()],
    ["a real log", real],
  ])("I10: %s cut at any byte is a shorter log or a typed error", (_title, bytes) => {
    const ends = new Set<number>();
    for (let length = 0; length < bytes.length; length++)
      if (read(bytes.subarray(0, length)) === "taken") ends.add(length);
    // It can end behind the header and behind each event but the last.
    expect(ends.size).toBe(parseFirmwareLog(bytes).events.length);
    expect(read(bytes)).toBe("taken");
  });

  it("I10: four bytes of ones at any place end in a log or a typed error", () => {
    for (let at = 0; at + 4 <= real.length; at++) {
      const bytes = real.slice();
      bytes.fill(0xff, at, at + 4);
      read(bytes);
    }
  });

  const sha256 = (count: number, data: Uint8Array, size = data.length) =>
    concatBytes(u32le(4), u32le(0xd), u32le(count), u16le(0x000b), new Uint8Array(32), u32le(size), data);
  const one = logHeader([[0x000b, 32]]);
  const locality = localityEntry(3).data;

  it.each([
    ["one byte more than its event's size says", concatBytes(one, sha256(1, utf8("xy"), 1))],
    ["an event that says one byte more than there is", concatBytes(one, sha256(1, utf8("xy"), 3))],
    ["an event of 4 GiB", concatBytes(one, sha256(1, utf8("xy"), 0xffffffff))],
    ["a measurement without a digest", concatBytes(one, u32le(4), u32le(0xd), u32le(0), u32le(0))],
    ["more digests than banks", concatBytes(one, sha256(2, utf8("xy")))],
    ["SHA-256 with the size of SHA-1", logHeader([[0x000b, 20]])],
    ["SHA-1 with the size of SHA-256", logHeader([[0x0004, 32]])],
    ["seventeen banks", logHeader(Array.from({ length: 17 }, (_, index): [number, number] => [0x1000 + index, 32]))],
    ["no SHA-256 bank", concatBytes(logHeader([[0x0004, 20]]), logEvent(4, 0xd, utf8("x"), ["sha1"]))],
    ["a start-up locality of another PCR", concatBytes(logHeader(), logEvent(1, noActionType, locality))],
    ["a start-up locality of no PCR", concatBytes(logHeader(), logEvent(0xffffffff, noActionType, locality))],
    [
      "a start-up locality without its value",
      concatBytes(logHeader(), logEvent(0, noActionType, locality.slice(0, 16))),
    ],
    [
      "a start-up locality with more",
      concatBytes(logHeader(), logEvent(0, noActionType, concatBytes(locality, new Uint8Array(1)))),
    ],
    ["two start-up localities that agree", concatBytes(logHeader(), startupLocality(0), startupLocality(0))],
    [
      "a start-up locality behind an H-CRTM",
      concatBytes(logHeader(), logEvent(0, 0x80000010, utf8("HCRTM")), startupLocality(4)),
    ],
    ["a log padded with zeros", concatBytes(typicalLog(), new Uint8Array(4096))],
    ["a log padded with ones", concatBytes(typicalLog(), new Uint8Array(4096).fill(0xff))],
    ["a log twice", concatBytes(typicalLog(), typicalLog())],
    ["a confidential-computing log, whose registers count from 1", typicalLog().with(0, 1)],
  ])("I10: %s is refused", (_title, bytes) => {
    expect(read(bytes)).toBe("refused");
  });

  it.each([
    ["a mebibyte of the smallest events", u32le(4), u32le(0xd)],
    ["a mebibyte of the smallest notes", u32le(0xffffffff), u32le(noActionType)],
  ])("I10: %s is refused before it is read to its end", (_title, pcr, type) => {
    const event = concatBytes(pcr, type, u32le(1), u16le(0x000b), new Uint8Array(32), u32le(0));
    const count = Math.floor(((1 << 20) - one.length) / event.length);
    const bytes = joinBytes([one, ...Array.from({ length: count }, () => event)]);
    expect(() => parseFirmwareLog(bytes)).toThrow(/at most 4096/);
    const taken = joinBytes([one, ...Array.from({ length: 4096 }, () => event)]);
    expect(read(taken)).toBe("taken");
  });
});
