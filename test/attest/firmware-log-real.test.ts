import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { pcrBanks, resetValue } from "../../attest/banks.ts";
import { authenticatedData, describeFirmwareEvent } from "../../attest/firmware-events.ts";
import {
  type FirmwareEvent,
  parseFirmwareLog,
  pcrsWithoutOneSeparator,
  replayFirmwareLog,
} from "../../attest/firmware-log.ts";
import { concatBytes, IronclawError, toHex, utf8 } from "../../policy/index.ts";
import {
  digestIn,
  encodeLog,
  type LogBank,
  localityEntry,
  logEvent,
  logHeader,
  noActionType,
  rawEvent,
  separatorType,
  startupLocality,
  u16le,
  u32le,
  u64le,
} from "../support/firmware-log-writer.ts";
import { platforms } from "../support/firmware-platforms.ts";

const directory = join(import.meta.dirname, "../vectors/firmware-logs");
const read = (name: string) => new Uint8Array(readFileSync(join(directory, name)));
const pcrs: Record<string, Record<string, Record<string, string>>> = JSON.parse(
  readFileSync(join(directory, "pcrs.json"), "utf8"),
);
const files = readdirSync(directory).filter((file) => file.endsWith(".bin"));

describe("firmware logs of real machines", () => {
  it("I9: every vector is one that is refused, or has PCR values that its source gives", () => {
    const named = files.map((file) => file.slice(0, -4));
    expect(named.filter((name) => !name.startsWith("refused-"))).toEqual(Object.keys(pcrs).sort());
    expect(named.filter((name) => name.startsWith("refused-"))).toHaveLength(3);
  });

  it.each(Object.keys(pcrs).filter((name) => pcrs[name]?.["sha1"] === undefined))("I9: %s replays to those", (name) => {
    const log = parseFirmwareLog(read(`${name}.bin`));
    for (const bank of pcrBanks.filter((each) => pcrs[name]?.[each] !== undefined)) {
      const replayed = replayFirmwareLog(log, bank);
      const found = Object.keys(pcrs[name]?.[bank] ?? {}).map((pcr) => [
        pcr,
        toHex(replayed.get(Number(pcr)) ?? resetValue(bank, Number(pcr))),
      ]);
      expect(Object.fromEntries(found)).toEqual(pcrs[name]?.[bank]);
    }
  });

  it("I9: an H-CRTM event that is the first of PCR 0 moves its start to 4, as on the machine", () => {
    const log = parseFirmwareLog(read("server-h-crtm-sm3.bin"));
    expect([log.startupLocality, log.algorithms]).toEqual([4, [0x0004, 0x000b, 0x0012]]);
    let pcr0 = concatBytes(new Uint8Array(19), Uint8Array.of(log.startupLocality));
    for (const { pcr, type, digests } of log.events) {
      const sha1 = digests.get(0x0004);
      if (pcr === 0 && type !== noActionType && sha1 !== undefined)
        pcr0 = Uint8Array.from(createHash("sha1").update(pcr0).update(sha1).digest());
    }
    expect(toHex(pcr0)).toBe(pcrs["server-h-crtm-sm3"]?.["sha1"]?.["0"]);
    const late = concatBytes(logHeader(), logEvent(0, 8, utf8("version")), logEvent(0, 0x80000010, utf8("HCRTM")));
    expect(parseFirmwareLog(late).startupLocality).toBe(0);
    const said = concatBytes(logHeader(), startupLocality(3), logEvent(0, 0x80000010, utf8("HCRTM")));
    expect(parseFirmwareLog(said).startupLocality).toBe(3);
  });

  it.each(files.filter((file) => file.startsWith("refused-")))("I10: %s ends in a typed error", (file) => {
    expect(() => parseFirmwareLog(read(file))).toThrow(IronclawError);
  });

  it("I9: an event without a digest in the quoted bank refuses that bank, and no other", () => {
    // Windows measures into one bank of a TPM that has several.
    const both: readonly LogBank[] = ["sha256", "sha384"];
    const bytes = concatBytes(
      logHeader(),
      ...[0, 1, 2, 3, 4, 5, 6, 7].map((pcr) => logEvent(pcr, separatorType, new Uint8Array(4), both)),
      logEvent(11, 0xc, Uint8Array.of(0x10, 0, 0, 0), ["sha256"]),
      rawEvent(0xffffffff, noActionType, utf8("key attestation"), ["sha256"], (bank) => digestIn(bank, utf8("x"))),
    );
    const log = parseFirmwareLog(bytes);
    expect([...replayFirmwareLog(log, "sha256").keys()]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 11]);
    expect(() => replayFirmwareLog(log, "sha384")).toThrow(/event 8 digests: expected sha384/);
    expect(pcrsWithoutOneSeparator(log, "sha384")).toEqual([]);
  });

  it("I9: a bank of an unknown hash is stepped over by the size that the header gives", () => {
    const sha256 = digestIn("sha256", utf8("x"));
    const event = concatBytes(
      ...[u32le(4), u32le(0xd), u32le(2), u16le(0x0099), new Uint8Array(100).fill(7), u16le(0x000b), sha256],
      ...[u32le(1), utf8("x")],
    );
    const header = logHeader([
      [0x0099, 100],
      [0x000b, 32],
    ]);
    const log = parseFirmwareLog(concatBytes(header, event));
    expect(log.algorithms).toEqual([0x0099, 0x000b]);
    expect(replayFirmwareLog(log, "sha256").size).toBe(1);
    expect(() => replayFirmwareLog(log, "sha384")).toThrow(IronclawError);
    for (const size of [0, 129, 0xffff])
      expect(() => parseFirmwareLog(logHeader([[0x0099, size]]))).toThrow(IronclawError);
  });

  it("I9: notes of every kind extend nothing, wherever they stand", () => {
    const notes = ["", "x", "StartupLocality", "SP800-155 Event3", "BIOSIntegrity\0\0\0 and more"].map(utf8);
    const plain = concatBytes(logEvent(0, 8, utf8("version")), logEvent(4, separatorType, new Uint8Array(4)));
    const noted = [0, 7, 23, 0xffffffff].flatMap((pcr) => notes.map((data) => logEvent(pcr, noActionType, data)));
    const without = replayFirmwareLog(parseFirmwareLog(concatBytes(logHeader(), plain)), "sha256");
    for (const order of [
      [...noted, plain],
      [plain, ...noted],
    ]) {
      const log = parseFirmwareLog(concatBytes(logHeader(), ...order));
      expect(replayFirmwareLog(log, "sha256")).toEqual(without);
    }
  });
});

describe("the log of a Debian behind shim and GRUB with Secure Boot on", () => {
  const { events } = parseFirmwareLog(read("debian-grub-secure-boot.bin"));
  const views = events.map((event, index) => describeFirmwareEvent(event, index, "sha384"));
  const measured = (pcr: number) => views.filter((view) => view.pcr === pcr).map((view) => view.measured);

  it("I9: says that it is on, and by whose certificate firmware and shim started what they started", () => {
    const [secureBoot, ...keys] = measured(7).slice(0, 5);
    expect(secureBoot).toBe("SecureBoot = 01");
    expect(keys.map((text) => text?.split(" ")[0])).toEqual(["PK", "KEK", "db", "dbx"]);
    expect(measured(7).slice(5)).toEqual([
      "00000000",
      "db = certificate of Microsoft Corporation UEFI CA 2011",
      "SbatLevel = sbat,1,2025021800 shim,4 grub,5 ",
      "MokListRT = certificate of Debian Secure Boot CA",
      "MokListRT = certificate of IronClaw trial db",
    ]);
  });

  it("I12: has the kernel image twice in PCR 4, from shim's verification and from its start, and nothing in PCR 12", () => {
    const images = views.filter(({ pcr, name }) => pcr === 4 && name === "UEFI boot application");
    expect(images.map(({ digest }) => images.findIndex((each) => each.digest === digest))).toEqual([0, 1, 2, 2]);
    expect(views.filter(({ pcr }) => pcr === 14).map(({ claimed }) => claimed)).toEqual([
      "MokList",
      "MokListX",
      "MokListTrusted",
    ]);
    expect(measured(12)).toEqual([]);
  });

  it("I9: takes for a certificate only what is one", () => {
    const name = utf8("d\0b\0");
    for (const contents of [concatBytes(new Uint8Array(16), Uint8Array.of(0x30, 0)), utf8("0".repeat(17))]) {
      const data = concatBytes(new Uint8Array(16), u64le(2), u64le(contents.length), name, contents);
      const [event] = parseFirmwareLog(concatBytes(logHeader(), logEvent(7, 0x800000e0, data))).events;
      expect(event && describeFirmwareEvent(event, 0, "sha256").measured).not.toContain("certificate");
    }
  });
});

describe("what an event's digest vouches for", () => {
  const event = (data: Uint8Array, measured: Uint8Array, type = 0xd): FirmwareEvent => {
    const bytes = rawEvent(8, type, data, ["sha256", "sha384"], (bank) => digestIn(bank, measured));
    const [found] = parseFirmwareLog(concatBytes(logHeader(), bytes)).events;
    if (found === undefined) throw new Error("an event");
    return found;
  };
  const name = utf8("B\0o\0o\0t\0");
  const variable = (contents: Uint8Array) =>
    concatBytes(new Uint8Array(16).fill(1), u64le(4), u64le(contents.length), name, contents);
  const contents = Uint8Array.of(1, 2, 3);

  it.each<[string, Uint8Array, Uint8Array]>([
    ["the data", utf8("Exit Boot Services Invocation"), utf8("Exit Boot Services Invocation")],
    ["no bytes", new Uint8Array(), new Uint8Array()],
    ["text without its NUL", utf8("MokList\0"), utf8("MokList")],
    ["GRUB's command without its label", utf8("grub_cmd: set x=1\0"), utf8("set x=1")],
    ["GRUB's command with its NUL", utf8("kernel_cmdline: /vmlinuz ro\0"), utf8("/vmlinuz ro\0")],
    ["a variable", variable(contents), variable(contents)],
    ["the contents of a variable", variable(contents), contents],
  ])("I9: %s, in both banks and whatever the event calls itself", (_title, data, measured) => {
    for (const type of [0x1, 0xd, 0x80000002, 0x8000f001]) {
      for (const bank of pcrBanks) expect(authenticatedData(event(data, measured, type), bank)).toEqual(measured);
    }
  });

  it("I9: data that has another digest is only claimed", () => {
    for (const data of [utf8("a kernel"), variable(contents), utf8("grub_cmd: set x=1\0"), new Uint8Array(4)]) {
      const found = event(data, utf8("something else"));
      expect(authenticatedData(found, "sha256")).toBeNull();
      expect(describeFirmwareEvent(found, 0, "sha256")).toMatchObject({ measured: null, claimed: expect.any(String) });
    }
  });

  it("I9: an event without a digest in the bank vouches for nothing there", () => {
    const bytes = concatBytes(logHeader(), logEvent(4, 0xd, utf8("x"), ["sha256"]));
    const [found] = parseFirmwareLog(bytes).events;
    expect(found && authenticatedData(found, "sha384")).toBeNull();
    expect(found && describeFirmwareEvent(found, 3, "sha384")).toEqual({
      ...{ index: 3, pcr: 4, name: "boot loader step", digest: null, measured: null, claimed: "x" },
    });
  });

  it("says in words what was measured and what is claimed, and nothing that a terminal obeys", () => {
    const views = platforms
      .map(([, platform]) => parseFirmwareLog(encodeLog(platform)))
      .concat(files.filter((file) => !file.startsWith("refused-")).map((file) => parseFirmwareLog(read(file))))
      .flatMap(({ events }) => events.map((each, index) => describeFirmwareEvent(each, index, "sha256")));
    expect(views.length).toBeGreaterThan(400);
    for (const { measured, claimed, name: words } of views) {
      expect((measured === null) !== (claimed === null)).toBe(true);
      const text = `${words}${measured}${claimed}`;
      expect(text).toMatch(/^[ -~…]*$/);
      expect(text.length).toBeLessThan(300);
    }
    expect(views).toContainEqual(expect.objectContaining({ name: "separator", measured: "00000000", claimed: null }));
    expect(describeFirmwareEvent(event(variable(contents), variable(contents)), 0, "sha256").measured).toBe(
      "Boot = 010203",
    );
    expect(describeFirmwareEvent(event(utf8("\u001b[2J"), utf8("x"), 0x8000f001), 0, "sha256")).toMatchObject({
      ...{ name: "type 0x8000f001", claimed: "1b5b324a" },
    });
    expect(localityEntry(3).data).toHaveLength(17);
  });
});
