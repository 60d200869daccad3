import { seededRandom } from "../../fuzz/random.ts";

/** Those that a shim or the agent may not live through. */
export const ENDING = [
  ...(["shim-kill", "shim-hang", "agent-kill", "tpm-kill", "hsm-kill"] as const),
  ...(["disk-brim", "descriptors", "memory"] as const),
] as const;
export const PASSING = ["verifier-kill", "hsm-stall", "disk-full", "clock-jump"] as const;
export const KINDS = [...ENDING, ...PASSING] as const;
export type FaultKind = (typeof KINDS)[number];

export interface PlannedFault {
  readonly kind: FaultKind;
  /** Before it, in milliseconds. */
  readonly pause: number;
  /** From 0 to 1. */
  readonly dice: number;
}

/** What comes in each half, without end: the same seed plans the same. */
export interface Plan {
  readonly first: Iterator<PlannedFault, never>;
  readonly second: Iterator<PlannedFault, never>;
}

const MIN_PAUSE = 500;
const MAX_PAUSE = 4000;

/** In decks in which every kind stands once; the first deck of all has what comes in the first half only. */
export function planFaults(seed: number): Plan {
  return { first: decks(seed, ENDING, KINDS), second: decks(~seed, PASSING, PASSING) };
}

function* decks(seed: number, begin: readonly FaultKind[], then: readonly FaultKind[]): Generator<PlannedFault, never> {
  const random = seededRandom(seed);
  for (let kinds = begin; ; kinds = then) {
    const deck = [...kinds];
    while (deck.length > 0) {
      const [kind] = deck.splice(random.below(deck.length), 1);
      const pause = MIN_PAUSE + random.below(MAX_PAUSE - MIN_PAUSE);
      if (kind !== undefined) yield { kind, pause, dice: random.below(1000) / 1000 };
    }
  }
}
