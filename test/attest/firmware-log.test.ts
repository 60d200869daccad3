import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { extendPcr, hashInBank, resetValue } from "../../attest/banks.ts";
import { parseFirmwareLog, pcrsWithoutOneSeparator, replayFirmwareLog } from "../../attest/firmware-log.ts";
import { concatBytes, IronclawError, toHex, utf8 } from "../../policy/index.ts";
import {
  digestIn,
  encodeLog,
  logEvent,
  logHeader,
  noActionType,
  rawEvent,
  separatorType,
  startupLocality,
  typicalLog,
  u16le,
  u32le,
} from "../support/firmware-log-writer.ts";
import { platforms, seaBios, systemdBoot, vendorNotebook } from "../support/firmware-platforms.ts";

/** As long as a log may be. */
const zerosBehindHeader = concatBytes(logHeader(), new Uint8Array((1 << 20) - logHeader().length));

describe("the firmware event log", () => {
  it.each(["sha256", "sha384"] as const)("replays to the extended PCRs in bank %s", (bank) => {
    const data = utf8("one");
    const log = parseFirmwareLog(concatBytes(logHeader(), logEvent(4, 0xd, data), logEvent(4, 0xd, data)));
    const zero = new Uint8Array(bank === "sha256" ? 32 : 48);
    const digest = hashInBank(bank, data);
    expect(toHex(replayFirmwareLog(log, bank).get(4) ?? zero)).toBe(
      toHex(extendPcr(bank, extendPcr(bank, zero, digest), digest)),
    );
    expect(replayFirmwareLog(log, bank).size).toBe(1);
  });

  it("a note extends nothing", () => {
    const log = parseFirmwareLog(
      concatBytes(
        logHeader(),
        logEvent(4, noActionType, utf8("note")),
        logEvent(0xffffffff, noActionType, utf8("note")),
      ),
    );
    expect(replayFirmwareLog(log, "sha256").size).toBe(0);
  });

  it("PCRs 17 to 22 start at ones", () => {
    const log = parseFirmwareLog(concatBytes(logHeader(), logEvent(17, 0xd, utf8("x"))));
    const expected = extendPcr("sha256", new Uint8Array(32).fill(0xff), hashInBank("sha256", utf8("x")));
    expect(toHex(replayFirmwareLog(log, "sha256").get(17) ?? new Uint8Array())).toBe(toHex(expected));
  });

  it("a start-up locality is where PCR 0 begins", () => {
    const log = parseFirmwareLog(concatBytes(logHeader(), startupLocality(3)));
    expect(toHex(replayFirmwareLog(log, "sha256").get(0) ?? new Uint8Array())).toBe(`${"00".repeat(31)}03`);
  });

  it("names every event of a typical log in words", () => {
    const log = parseFirmwareLog(typicalLog());
    expect(log.events.every(({ name }) => name !== null)).toBe(true);
  });

  it.each(platforms)("I9: of %s replays in every bank of this project that it has", (_name, platform) => {
    const bytes = encodeLog(platform);
    const log = parseFirmwareLog(bytes);
    expect(log.events).toHaveLength(platform.entries.length);
    for (const bank of ["sha256", "sha384"] as const) {
      if (!platform.banks.includes(bank)) {
        expect(() => replayFirmwareLog(log, bank)).toThrow(IronclawError);
        continue;
      }
      const expected = new Map<number, Uint8Array>();
      if (log.startupLocality > 0) expected.set(0, resetValue(bank, 0).fill(log.startupLocality, -1));
      for (const { pcr, type, data, measured = data } of platform.entries) {
        if (type === noActionType) continue;
        const digest = (platform.digest ?? digestIn)(bank, measured);
        expected.set(pcr, extendPcr(bank, expected.get(pcr) ?? resetValue(bank, pcr), digest));
      }
      expect(replayFirmwareLog(log, bank)).toEqual(expected);
    }
  });

  it("I9: an event of a type that no profile lists is replayed like any other", () => {
    const log = parseFirmwareLog(concatBytes(logHeader(), logEvent(0, 0x8000f001, utf8("x"))));
    expect(log.events[0]).toMatchObject({ name: null, type: 0x8000f001 });
    const expected = extendPcr("sha256", new Uint8Array(32), hashInBank("sha256", utf8("x")));
    expect(toHex(replayFirmwareLog(log, "sha256").get(0) ?? new Uint8Array())).toBe(toHex(expected));
  });

  it("I9: a log of more than 100 KiB with vendor bytes in its header, made like a notebook's, is read", () => {
    const bytes = encodeLog(vendorNotebook);
    expect(bytes.length).toBeGreaterThan(100 << 10);
    expect(parseFirmwareLog(bytes).startupLocality).toBe(3);
  });

  it("I9: a separator is known by its digest, not by what the event calls itself", () => {
    const all = (type: number, digestOf: Uint8Array) =>
      parseFirmwareLog(
        concatBytes(
          logHeader(),
          ...[0, 1, 2, 3, 4, 5, 6, 7].map((pcr) =>
            rawEvent(pcr, type, new Uint8Array(4), ["sha256", "sha384"], (bank) => digestIn(bank, digestOf)),
          ),
        ),
      );
    expect(pcrsWithoutOneSeparator(all(separatorType, new Uint8Array(4)), "sha256")).toEqual([]);
    expect(pcrsWithoutOneSeparator(all(0xd, new Uint8Array(4)), "sha384")).toEqual([]);
    expect(pcrsWithoutOneSeparator(all(separatorType, utf8("something else")), "sha256")).toHaveLength(8);
  });

  it("a PCR with two separators, or none, is named", () => {
    const twice = concatBytes(typicalLog(), logEvent(5, separatorType, new Uint8Array(4)));
    expect(pcrsWithoutOneSeparator(parseFirmwareLog(typicalLog()), "sha256")).toEqual([]);
    expect(pcrsWithoutOneSeparator(parseFirmwareLog(twice), "sha256")).toEqual([5]);
    // SHA-1 digests filled with zeros are no SHA-256 digests of anything.
    expect(pcrsWithoutOneSeparator(parseFirmwareLog(encodeLog(seaBios)), "sha256")).toHaveLength(8);
    expect(pcrsWithoutOneSeparator(parseFirmwareLog(encodeLog(systemdBoot)), "sha256")).toEqual([]);
  });

  const event = logEvent(4, 0xd, utf8("x"));
  const digests = (first: number, second: number, count = 2) =>
    concatBytes(
      u32le(4),
      u32le(0xd),
      u32le(count),
      u16le(first),
      new Uint8Array(32),
      u16le(second),
      new Uint8Array(48),
      u32le(0),
    );

  it.each([
    ["zero bytes", new Uint8Array()],
    ["a header alone in the old format", concatBytes(u32le(0), u32le(8), new Uint8Array(20), u32le(0))],
    ["an event before the header", concatBytes(event, logHeader())],
    ["a cut header", logHeader().slice(0, -1)],
    ["a cut event", concatBytes(logHeader(), event).slice(0, -1)],
    ["trailing zeros", concatBytes(logHeader(), event, new Uint8Array(3))],
    ["no banks", logHeader([])],
    ["four billion banks", logHeader([[0x000b, 32]], 0xffffffff)],
    [
      "a bank twice in the header",
      logHeader([
        [0x000b, 32],
        [0x000b, 32],
      ]),
    ],
    ["a wrong digest size", logHeader([[0x000b, 20]])],
    ["a bank twice in an event", concatBytes(logHeader(), digests(0x000b, 0x000b))],
    [
      "a bank that the header does not list",
      concatBytes(
        logHeader([[0x000b, 32]]),
        concatBytes(u32le(4), u32le(0xd), u32le(1), u16le(0x000c), new Uint8Array(48), u32le(0)),
      ),
    ],
    ["four billion digests", concatBytes(logHeader(), digests(0x000b, 0x000c, 0xffffffff))],
    [
      "four billion bytes of event data",
      concatBytes(logHeader(), digests(0x000b, 0x000c).slice(0, -4), u32le(0xffffffff)),
    ],
    ["a PCR that does not exist", concatBytes(logHeader(), logEvent(24, 0xd, utf8("x")))],
    ["a second start-up locality", concatBytes(logHeader(), startupLocality(3), startupLocality(3))],
    [
      "a start-up locality after PCR 0 was extended",
      concatBytes(logHeader(), logEvent(0, 8, utf8("x")), startupLocality(3)),
    ],
    ["a start-up locality that does not exist", concatBytes(logHeader(), startupLocality(5))],
    ["more than 1 MiB", new Uint8Array((1 << 20) + 1)],
    ["zeros behind a header, 1 MiB together", zerosBehindHeader],
    [
      "more events than a boot has",
      concatBytes(
        logHeader([[0x000b, 32]]),
        ...Array.from({ length: 4097 }, () => logEvent(4, 0xd, utf8("x"), ["sha256"])),
      ),
    ],
  ])("I10: %s ends in a typed error", (_title, bytes) => {
    expect(() => parseFirmwareLog(bytes)).toThrow(IronclawError);
  });

  it("I10: mutated logs end in a log or a typed error", () => {
    const valid = typicalLog();
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        fc.nat(8),
        (changes, cut) => {
          const bytes = valid.slice(0, valid.length - cut);
          for (const [at, byte] of changes) bytes[at] = byte;
          try {
            replayFirmwareLog(parseFirmwareLog(bytes), "sha256");
          } catch (error) {
            if (!(error instanceof IronclawError)) throw error;
          }
        },
      ),
      { numRuns: 1000 },
    );
  });
});
