import { toHex } from "../policy/index.ts";
import { bankAlgorithm, hashInBank, type PcrBank } from "./banks.ts";
import { AttestError } from "./errors.ts";
import type { FirmwareEvent, FirmwareLog } from "./firmware-log.ts";
import { type BootExtend, type BootedKernel, predictBootExtends } from "./predict.ts";

/** A boot in which a boot loader, e.g. shim and then GRUB, started the unified kernel image. */
export interface LoaderBoot {
  /** Of that boot. */
  readonly log: FirmwareLog;
  /** The kernel image that it started. */
  readonly uki: Uint8Array;
}

/** What firmware and loader do before a kernel image is started; the rest of `predictBootExtends` is the image's own. */
const BEFORE_THE_IMAGE = 2;
const NO_ACTION = 3;

/**
 * What a boot will extend into PCRs 4, 9 and 11 when the loader of `boot` starts this kernel image instead of the one that it started then. Nobody
 * predicts what a loader reads, so up to the image the log is believed: it is no proof, take that of a report that verified, or of a machine that you
 * set up yourself. From there on it has to be exactly what the image of that boot makes of it, which is replaced by what the new one makes. So is what
 * is measured of the image before it is started: by GRUB the file that it reads, and by shim, where Secure Boot is on, the image that it verifies for
 * GRUB, and measures once more when it starts it.
 *
 * @throws AttestError ERR_PCR_PREDICTION for a log of another boot, or of a loader that measured something behind the image, or into PCR 12; and as
 * `predictBootExtends`
 */
export function predictBehindLoader(boot: LoaderBoot, kernel: BootedKernel): readonly BootExtend[] {
  const then = predictBootExtends({ ...kernel, uki: boot.uki, phases: [] }).slice(BEFORE_THE_IMAGE);
  const logged = boot.log.events.filter(({ type }) => type !== NO_ACTION).flatMap(extendOf);
  const start = logged.findLastIndex((extend) => isSame(extend, then[0]));
  if (start < 0) throw unlike("a boot of this kernel image", "another, or none");
  const behind = logged.slice(start);
  // Between the PCRs there is no order: stub and kernel take turns.
  for (const pcr of [4, 9, 11]) {
    const of = (all: readonly BootExtend[]) => all.filter((each) => each.pcr === pcr);
    const [expected, got] = [of(then), of(behind)];
    if (expected.length !== got.length || !expected.every((each, index) => isSame(each, got[index])))
      throw unlike(`what this kernel image extends into PCR ${pcr}, and nothing behind it`, "something else");
  }
  const now = predictBootExtends(kernel).slice(BEFORE_THE_IMAGE);
  const [old, replacements] = [ofImage(boot.uki, then), ofImage(kernel.uki, now)];
  const before = logged
    .slice(0, start)
    .map((extend) => replacements[old.findIndex((each) => isSame(each, extend))] ?? extend);
  return [...before, ...now];
}

function extendOf({ pcr, digests }: FirmwareEvent): readonly BootExtend[] {
  if (pcr === 12 || pcr === 13) throw unlike(`nothing in PCR ${pcr}`, "a measurement");
  if (pcr !== 4 && pcr !== 9 && pcr !== 11) return [];
  const digest = (bank: PcrBank) => {
    const found = digests.get(bankAlgorithm(bank));
    if (found === undefined) throw unlike(`a digest in ${bank} for every event`, "none");
    return toHex(found);
  };
  return [{ pcr, sha256: digest("sha256"), sha384: digest("sha384") }];
}

/** The file, and the image in it, which is the first of its own extends. */
function ofImage(uki: Uint8Array, own: readonly BootExtend[]): readonly BootExtend[] {
  const digest = (bank: PcrBank) => toHex(hashInBank(bank, uki));
  return [{ pcr: 9, sha256: digest("sha256"), sha384: digest("sha384") }, ...own.slice(0, 1)];
}

function isSame(one: BootExtend, other: BootExtend | undefined): boolean {
  return one.pcr === other?.pcr && one.sha256 === other.sha256 && one.sha384 === other.sha384;
}

function unlike(expected: string, got: string): AttestError {
  const hint = "it has to be the log of a boot that started the image given with it, without arguments of the loader's";
  return new AttestError("ERR_PCR_PREDICTION", "firmware log of the boot", { expected, got, hint });
}
