import { median } from "../../bench/bench.ts";
import type { LabHeld } from "../../support/lab-broker.ts";

/** What the agent held in the middle of the run and at its end, in MiB: medians of several looks, each after a collection. */
export interface Held {
  readonly middle: number;
  readonly end: number;
  /** Growth over the last half that is no finding. */
  readonly allowed: number;
}

export interface MemoryTold {
  /** JavaScript objects and buffers. */
  readonly heap: Held;
  /** Of the process; the allocator's own slack is in it. */
  readonly resident: Held;
  readonly descriptors: { readonly before: number; readonly after: number };
}

const MIB = 1 << 20;
const HEAP_GROWTH = 4;
/** An allocator keeps what a burst needed, and a run of minutes is young. */
export const RESIDENT_GROWTH = 48;
/** How often the agent is looked at. */
export const LOOKS = 20;

/** @param sizes in bytes, of the last half of a run, in their order and at equal distances */
export function heldOver(sizes: readonly number[], allowed: number): Held {
  const third = Math.max(1, Math.floor(sizes.length / 3));
  const mib = (some: readonly number[]) => Math.round((100 * median(some)) / MIB) / 100;
  return { middle: mib(sizes.slice(0, third)), end: mib(sizes.slice(-third)), allowed };
}

/** @param looks of the whole run, in their order and at equal distances */
export function toldOf(looks: readonly LabHeld[], descriptors: MemoryTold["descriptors"]): MemoryTold {
  const half = looks.slice(Math.floor(looks.length / 2));
  const heap = half.map(({ heapBytes, externalBytes }) => heapBytes + externalBytes);
  const resident = half.map(({ residentBytes }) => residentBytes);
  return { heap: heldOver(heap, HEAP_GROWTH), resident: heldOver(resident, RESIDENT_GROWTH), descriptors };
}

/** What is not flat, or not back where it was; empty when all is. */
export function memoryFindings({ heap, resident, descriptors }: MemoryTold): readonly string[] {
  const grown = (what: string, { middle, end, allowed }: Held) =>
    end - middle <= allowed ? [] : [`the agent's ${what} grew over the last half: from ${middle} to ${end} MiB`];
  const { before, after } = descriptors;
  return [
    ...grown("heap", heap),
    ...grown("resident memory", resident),
    ...(after > before ? [`${after - before} descriptors of dropped connections are left`] : []),
  ];
}

/** For people. */
export function memoryText({ heap, resident, descriptors }: MemoryTold): string {
  const text = ({ middle, end }: Held) => `${middle} MiB in the middle, ${end} at the end`;
  const { before, after } = descriptors;
  return `heap ${text(heap)}; resident ${text(resident)}; ${before} descriptors before, ${after} after`;
}
