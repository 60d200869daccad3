import { describe, expect, it } from "vitest";
import {
  type FirmwareLog,
  type PcrBank,
  parseFirmwareLog,
  pcrBanks,
  replayFirmwareLog,
  resetValue,
} from "../../attest/index.ts";
import { type BootedKernel, foldBootExtends, predictBootExtends } from "../../attest/predict.ts";
import { predictBehindLoader } from "../../attest/predict-behind-loader.ts";
import { concatBytes, fromHex, toHex, utf8 } from "../../policy/index.ts";
import { logEvent, logHeader, rawEvent } from "../support/firmware-log-writer.ts";
import { peImage, stubMagic } from "../support/pe-image.ts";

const kernelImage = (version: string, line = "quiet") =>
  peImage([
    stubMagic(),
    [".osrel", utf8("ID=debian\n")],
    [".cmdline", utf8(line)],
    [".linux", peImage([[".text", utf8(`kernel ${version}`)]])],
    [".initrd", utf8(`initrd ${version}`)],
  ]);
const [OLD, NEW] = [kernelImage("1"), kernelImage("2", "quiet ro")];

/** What shim and GRUB measure before they start it: themselves, a menu, and the image as a file. */
const loader = (uki: Uint8Array, menu: string) => [
  logEvent(4, 0x80000007, utf8("Calling EFI Application from Boot Option")),
  logEvent(4, 4, new Uint8Array(4)),
  logEvent(4, 0x80000003, utf8("shim")),
  logEvent(14, 0xd, utf8("MokList")),
  logEvent(4, 0x80000003, utf8("GRUB")),
  logEvent(8, 0xd, utf8("configfile /boot/grub/grub.cfg")),
  logEvent(9, 0xd, utf8(menu)),
  logEvent(9, 0xd, uki),
];
const own = (uki: Uint8Array, secureBoot = false) =>
  predictBootExtends({ uki, secureBoot })
    .slice(2)
    .map((extend) => rawEvent(extend.pcr, 0xd, new Uint8Array(), pcrBanks, (bank) => fromHex(extend[bank as PcrBank])));
const boot = (uki: Uint8Array, { menu = "menu", behind = [] as readonly Uint8Array[] } = {}) =>
  parseFirmwareLog(concatBytes(logHeader(), ...loader(uki, menu), ...own(uki), ...behind));

describe("a boot behind a boot loader", () => {
  it.each(pcrBanks)("I12: of the image that the log is of is what the log replays to, in %s", (bank) => {
    const log = boot(OLD);
    const predicted = foldBootExtends(predictBehindLoader({ log, uki: OLD }, { uki: OLD }))[bank];
    const replayed = replayFirmwareLog(log, bank);
    for (const pcr of [4, 9, 11, 12] as const)
      expect(predicted[pcr]).toBe(toHex(replayed.get(pcr) ?? resetValue(bank, pcr)));
  });

  it("I12: of another image is what the log of that one's boot replays to, with the phases of systemd behind it", () => {
    const predicted = predictBehindLoader({ log: boot(OLD), uki: OLD }, { uki: NEW });
    expect(foldBootExtends(predicted)).toEqual(
      foldBootExtends(predictBehindLoader({ log: boot(NEW), uki: NEW }, { uki: NEW })),
    );
    expect(predicted).not.toEqual(predictBehindLoader({ log: boot(OLD), uki: OLD }, { uki: OLD }));
    const phases = ["sysinit", "ready"] as const;
    expect(predictBehindLoader({ log: boot(OLD), uki: OLD }, { uki: NEW, phases }).slice(0, -2)).toEqual(predicted);
  });

  it("I12: with Secure Boot on, of another image too: shim measures the image once more, when it verifies it", () => {
    const verified = (uki: Uint8Array) =>
      parseFirmwareLog(
        concatBytes(logHeader(), ...loader(uki, "menu"), ...own(uki, true).slice(0, 1), ...own(uki, true)),
      );
    const predicted = (then: Uint8Array, next: Uint8Array) =>
      foldBootExtends(predictBehindLoader({ log: verified(then), uki: then }, { uki: next, secureBoot: true }));
    for (const bank of pcrBanks) {
      const replayed = replayFirmwareLog(verified(NEW), bank);
      for (const pcr of [4, 9, 11] as const)
        expect(predicted(OLD, NEW)[bank][pcr]).toBe(toHex(replayed.get(pcr) ?? new Uint8Array()));
    }
    expect(predicted(OLD, NEW)).toEqual(predicted(NEW, NEW));
  });

  it("I2: with another menu is another boot", () => {
    const of = (menu: string) =>
      foldBootExtends(predictBehindLoader({ log: boot(OLD, { menu }), uki: OLD }, { uki: OLD }));
    expect(of("menu").sha256[9]).not.toBe(of("menu ").sha256[9]);
    expect(of("menu").sha256[4]).toBe(of("menu ").sha256[4]);
  });

  it.each<[string, FirmwareLog, string, BootedKernel?]>([
    ["of another image", boot(NEW), "a boot of this kernel image"],
    ["of no image", parseFirmwareLog(concatBytes(logHeader(), ...loader(OLD, "menu"))), "a boot of this kernel image"],
    ["that goes on in PCR 4", boot(OLD, { behind: [logEvent(4, 0xd, utf8("more"))] }), "PCR 4, and nothing behind it"],
    ["that goes on in PCR 9", boot(OLD, { behind: [logEvent(9, 6, utf8("initrd"))] }), "PCR 9, and nothing behind it"],
    ["that goes on in PCR 11", boot(OLD, { behind: [logEvent(11, 0xd, utf8("x"))] }), "PCR 11, and nothing behind it"],
    [
      "with arguments of the loader's",
      boot(OLD, { behind: [logEvent(12, 0xd, utf8("init=/x"))] }),
      "nothing in PCR 12",
    ],
    [
      "of a boot without Secure Boot, for one with it",
      boot(OLD),
      "PCR 4, and nothing behind it",
      { uki: OLD, secureBoot: true },
    ],
    ["with an event of the agent's PCR", boot(OLD, { behind: [logEvent(13, 0xd, utf8("x"))] }), "nothing in PCR 13"],
    [
      "with an event that one bank lacks",
      boot(OLD, { behind: [logEvent(9, 0xd, utf8("x"), ["sha256"])] }),
      "a digest in sha384",
    ],
  ])("I2: is not predicted from a log %s", (_, log, expected, kernel: BootedKernel = { uki: OLD }) => {
    const act = () => predictBehindLoader({ log, uki: OLD }, kernel);
    expect(act).toThrow(expected);
    expect(act).toThrow(expect.objectContaining({ code: "ERR_PCR_PREDICTION", hint: expect.any(String) }));
  });
});
