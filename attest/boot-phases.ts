import { equalBytes, utf8 } from "../policy/index.ts";
import { extendPcr, hashInBank, type PcrBank } from "./banks.ts";

/** PCR that the sections of a unified kernel image and, later, the phases of a boot are extended into. */
export const PHASE_PCR = 11;

/**
 * The words that systemd extends into PCR 11 while it starts a machine, in their order (systemd-pcrphase.service(8)): the first two only
 * from an initrd that runs systemd. They come after the firmware's log has ended, so no log has them.
 */
export const bootPhases = ["enter-initrd", "leave-initrd", "sysinit", "ready"] as const;
export type BootPhase = (typeof bootPhases)[number];

/** Every way that a machine may have come so far: from the initrd on, or from the root file system on. */
const courses: readonly (readonly BootPhase[])[] = [bootPhases, bootPhases.slice(2)].flatMap((course) =>
  course.map((_, index) => course.slice(0, index + 1)),
);

export function extendPhases(bank: PcrBank, value: Uint8Array, phases: readonly BootPhase[]): Uint8Array {
  return phases.reduce((old, phase) => extendPcr(bank, old, hashInBank(bank, utf8(phase))), value);
}

/**
 * The phases that lead from what the firmware's log explains to the quoted value; `null` where none do. Says that exactly these words
 * were measured, and nothing about who measured them: the release's own value for the PCR says how far a machine should have come.
 */
export function phasesBetween(bank: PcrBank, logged: Uint8Array, quoted: Uint8Array): readonly BootPhase[] | null {
  return courses.find((phases) => equalBytes(extendPhases(bank, logged, phases), quoted)) ?? null;
}
