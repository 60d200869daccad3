import { type CrowdResult, soakCrowd } from "./crowd/crowd.ts";
import type { MachineHeld } from "./machine/held.ts";
import type { Plant } from "./machine/plants.ts";
import { soakMachine } from "./machine/soak.ts";

export const PARTS = ["crowd", "machine"] as const;
export type Part = (typeof PARTS)[number];

export interface SoakOptions {
  readonly minutes: number;
  readonly seed: number;
  readonly parts: readonly Part[];
  readonly plants: readonly Plant[];
  readonly say: (line: string) => void;
}

export interface SoakResult {
  readonly seed: number;
  /** Operations that were asked for, given and found good. */
  readonly operations: number;
  /** What was done to agent and machine that should not be. */
  readonly faults: number;
  readonly faultsByKind: Readonly<Record<string, number>>;
  /** What must not be; empty when all held. */
  readonly violations: readonly string[];
  /** Null when it was left out. */
  readonly crowd: Pick<CrowdResult, "memory"> | null;
  readonly machine: { readonly held: MachineHeld } | null;
}

/** Of the time, when both have their part of it. */
const CROWD = 1 / 5;
/** Connections of a crowd that is there for so many minutes. */
const DROPS = 10_000;
const DROPS_MINUTES = 10;

/** First the crowd, then the machine. */
export async function soak({ minutes, seed, parts, plants, say }: SoakOptions): Promise<SoakResult> {
  const share = parts.length === 1 ? 1 : CROWD;
  const crowd = parts.includes("crowd") ? await soakCrowd(crowdOrder(minutes * share)) : null;
  const rest = crowd === null ? minutes : minutes * (1 - share);
  const machine = parts.includes("machine")
    ? await soakMachine({ milliseconds: rest * 60_000, seed, plants, say })
    : null;
  const ofMachine = machine?.faultsByKind ?? {};
  const faultsByKind = { ...(crowd === null ? {} : { crowd: crowd.faults }), ...ofMachine };
  return {
    ...{ seed, faultsByKind, operations: (crowd?.operations ?? 0) + (machine?.operations ?? 0) },
    faults: Object.values(faultsByKind).reduce((sum, count) => sum + count, 0),
    violations: [...(crowd?.violations ?? []), ...(machine?.violations ?? [])],
    crowd: crowd === null ? null : { memory: crowd.memory },
    machine: machine === null ? null : { held: machine.held },
  };
}

/** As many connections in a short run as come and go in that part of a long one. */
function crowdOrder(minutes: number) {
  return { milliseconds: minutes * 60_000, drops: Math.ceil(DROPS * Math.min(1, minutes / DROPS_MINUTES)) };
}
