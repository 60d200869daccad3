import { concatBytes, toHex, utf8 } from "../policy/index.ts";
import { extendPcr, hashInBank, type PcrBank, resetValue } from "./banks.ts";
import { AttestError } from "./errors.ts";
import { measurePe, type PeImage, parsePe, readPeSection } from "./pe.ts";

/** PCRs that follow from the unified kernel image alone. */
export const bootPcrs = [4, 9, 11, 12] as const;
export type BootPcr = (typeof bootPcrs)[number];

/** Lower-case hex PCR values, keyed by bank and PCR. */
export type BootPcrValues = Readonly<Record<PcrBank, Readonly<Record<BootPcr, string>>>>;

/**
 * Sections that the systemd 252 stub measures into PCR 11, in the stub's order (not the file's). `.uname` is not measured.
 * Later stubs measure more: derive this list again when the stub's version changes.
 */
const stubSections = [".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"] as const;

/**
 * PCRs 4, 9, 11 and 12 after OVMF starts `uki` (systemd 252 stub) as its first boot option from removable media, Secure Boot off.
 *
 * PCR 4: firmware's boot events and the two PE images. PCR 9: command line and initrd, by the kernel's EFI stub. PCR 11: the
 * sections, by systemd-stub. PCR 12: untouched, because the image ships no add-ons, credentials or passed command line.
 *
 * A prediction, not a proof: it does not hold when an earlier boot option fails (PCR 4 then has more events), and it says
 * nothing about firmware (PCR 0 to 3, 7).
 * Throws {@link AttestError} ERR_PE_MALFORMED, or ERR_PCR_PREDICTION when a section is missing.
 */
export function predictBootPcrs({ uki }: { readonly uki: Uint8Array }): BootPcrValues {
  const image = parsePe(uki);
  const kernel = parsePe(requiredSection(image, ".linux"));
  const inBank = (bank: PcrBank) => ({
    4: pcrOf(bank, bootManagerDigests(bank, image, kernel)),
    9: pcrOf(bank, kernelStubDigests(bank, image)),
    11: pcrOf(bank, systemdStubDigests(bank, image)),
    12: pcrOf(bank, []),
  });
  return { sha256: inBank("sha256"), sha384: inBank("sha384") };
}

function bootManagerDigests(bank: PcrBank, image: PeImage, kernel: PeImage): Uint8Array[] {
  return [
    hashInBank(bank, utf8("Calling EFI Application from Boot Option")), // EV_EFI_ACTION, no NUL
    hashInBank(bank, new Uint8Array(4)), // EV_SEPARATOR
    measurePe(image, bank),
    measurePe(kernel, bank), // systemd-stub starts the kernel through the firmware's LoadImage
  ];
}

function kernelStubDigests(bank: PcrBank, image: PeImage): Uint8Array[] {
  const commandLine = requiredSection(image, ".cmdline");
  return [hashInBank(bank, utf16le(commandLine)), hashInBank(bank, requiredSection(image, ".initrd"))];
}

function systemdStubDigests(bank: PcrBank, image: PeImage): Uint8Array[] {
  return stubSections.flatMap((name) => {
    const content = readPeSection(image, name);
    return content === null ? [] : [hashInBank(bank, utf8(`${name}\0`)), hashInBank(bank, content)];
  });
}

/** ASCII as UTF-16LE with a terminating NUL, as load options are passed. Other bytes have no agreed conversion: refused. */
function utf16le(text: Uint8Array): Uint8Array {
  if (text.some((byte) => byte < 0x20 || byte > 0x7e)) {
    throw new AttestError("ERR_PCR_PREDICTION", "section .cmdline", {
      expected: "printable ASCII",
      got: "other bytes",
    });
  }
  const wide = new Uint8Array(2 * text.length);
  text.forEach((byte, index) => {
    wide[2 * index] = byte;
  });
  return concatBytes(wide, new Uint8Array(2));
}

function requiredSection(image: PeImage, name: string): Uint8Array {
  const content = readPeSection(image, name);
  if (content !== null) return content;
  throw new AttestError("ERR_PCR_PREDICTION", `section ${name}`, {
    expected: "present",
    got: "absent",
  });
}

function pcrOf(bank: PcrBank, digests: readonly Uint8Array[]): string {
  // None of these PCRs starts with ones, so one reset value serves all.
  return toHex(digests.reduce((pcr, digest) => extendPcr(bank, pcr, digest), resetValue(bank, 0)));
}
