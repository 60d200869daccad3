import { concatBytes, fromHex, toHex, utf8 } from "../policy/index.ts";
import { extendPcr, hashInBank, type PcrBank, resetValue } from "./banks.ts";
import { type BootPhase, PHASE_PCR } from "./boot-phases.ts";
import { AttestError } from "./errors.ts";
import { measurePe, type PeImage, parsePe } from "./pe.ts";
import { readStubbedKernel } from "./stub.ts";

/** PCRs that follow from the unified kernel image alone. */
export const bootPcrs = [4, 9, 11, 12] as const;
export type BootPcr = (typeof bootPcrs)[number];

/** Lower-case hex PCR values, keyed by bank and PCR. */
export type BootPcrValues = Readonly<Record<PcrBank, Readonly<Record<BootPcr, string>>>>;

/** What is started, and how far it has come when a credential is unsealed. */
export interface BootedKernel {
  /** The unified kernel image. */
  readonly uki: Uint8Array;
  /** None in our own images, which have no systemd. */
  readonly phases?: readonly BootPhase[];
  /** The firmware verifies what it starts. Default: no. */
  readonly secureBoot?: boolean;
}

/** One TPM2_PCR_Extend of a boot, with its digest in each bank: lower-case hexadecimal. */
export interface BootExtend extends Readonly<Record<PcrBank, string>> {
  readonly pcr: Exclude<BootPcr, 12>;
}

/**
 * Everything that OVMF, systemd-stub (`stub.ts`) and the kernel extend into PCRs 4, 9 and 11, in their order, when OVMF starts `uki` as its
 * first boot option from removable media. PCR 12 stays untouched, because the image ships no add-ons, credentials
 * or passed command line.
 *
 * A system with systemd in it extends the words of `phases` into PCR 11 as well, before it starts services.
 *
 * A prediction, not a proof: it does not hold when an earlier boot option fails (PCR 4 then has more events), and it says
 * nothing about firmware (PCR 0 to 3) or Secure Boot's variables (`predictPcr7`).
 * Throws {@link AttestError} ERR_PE_MALFORMED, or ERR_PCR_PREDICTION when a section is missing, or it is not known what its stub measures.
 */
export function predictBootExtends({ uki, secureBoot = false, phases = [] }: BootedKernel): readonly BootExtend[] {
  const image = parsePe(uki);
  const { measured, kernel, commandLine, initrd } = readStubbedKernel(image, secureBoot);
  return [
    extendOf(4, utf8("Calling EFI Application from Boot Option")), // EV_EFI_ACTION, no NUL
    extendOf(4, new Uint8Array(4)), // EV_SEPARATOR
    extendOfPe(image),
    ...measured.flatMap(([name, content]) => [extendOf(PHASE_PCR, utf8(`${name}\0`)), extendOf(PHASE_PCR, content)]),
    // systemd-stub starts the kernel through the firmware's LoadImage. With Secure Boot it vouches for it in the firmware's place, which then
    // neither verifies nor measures it.
    ...(secureBoot ? [] : [extendOfPe(parsePe(kernel))]),
    extendOf(9, utf16le(commandLine)), // the kernel's EFI stub
    extendOf(9, initrd),
    ...phases.map((phase) => extendOf(PHASE_PCR, utf8(phase))),
  ];
}

/** The values of PCRs 4, 9, 11 and 12 after these extends, from their reset value. Says nothing about who makes them. */
export function foldBootExtends(extensions: readonly BootExtend[]): BootPcrValues {
  const value = (bank: PcrBank, pcr: BootPcr) => {
    const digests = extensions.filter((each) => each.pcr === pcr).map((each) => fromHex(each[bank], `PCR ${pcr}`));
    return toHex(digests.reduce((old, digest) => extendPcr(bank, old, digest), resetValue(bank, pcr)));
  };
  const inBank = (bank: PcrBank) => ({
    4: value(bank, 4),
    9: value(bank, 9),
    11: value(bank, 11),
    12: value(bank, 12),
  });
  return { sha256: inBank("sha256"), sha384: inBank("sha384") };
}

/** PCRs 4, 9, 11 and 12 after the boot of `predictBootExtends`, with its preconditions and errors. */
export function predictBootPcrs(image: BootedKernel): BootPcrValues {
  return foldBootExtends(predictBootExtends(image));
}

function extendOf(pcr: BootExtend["pcr"], content: Uint8Array): BootExtend {
  return { pcr, sha256: toHex(hashInBank("sha256", content)), sha384: toHex(hashInBank("sha384", content)) };
}

function extendOfPe(image: PeImage): BootExtend {
  return { pcr: 4, sha256: toHex(measurePe(image, "sha256")), sha384: toHex(measurePe(image, "sha384")) };
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
