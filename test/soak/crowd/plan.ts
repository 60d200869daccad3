/** What a workload does with its scope. */
export interface Workload {
  readonly index: number;
  readonly scope: string;
  /** The policy's name of its caller: a user and a program of its own. */
  readonly caller: string;
  /** The policy's name of the one key that its scope has. */
  readonly key: string;
  readonly door: "native" | "p11kit";
  readonly kind: Kind;
}

/**
 * - `modest`: stays below its rate and is never refused for it
 * - `greedy`: asks more often than its rate allows, and gets that and no more
 * - `counted`: has a budget of so many operations, and gets those and no more
 */
export type Kind = "modest" | "greedy" | "counted";

export interface Limits {
  readonly rate: { readonly perMinute: number; readonly burst: number };
  readonly budget?: { readonly operations: number };
}

export const WORKLOADS = 64;
const CALLERS = 8;
/** The first eight scopes have a key each, the others share eight. */
const KEYS = 16;
const OWN = KEYS / 2;

export const LIMITS: Readonly<Record<Kind, Limits>> = {
  modest: { rate: { perMinute: 6000, burst: 200 } },
  greedy: { rate: { perMinute: 120, burst: 10 } },
  counted: { rate: { perMinute: 6000, burst: 200 }, budget: { operations: 30 } },
};
/** Between two operations, in milliseconds. */
export const PAUSE: Readonly<Record<Kind, number>> = { modest: 150, greedy: 200, counted: 150 };

export const KEY_NAMES: readonly string[] = Array.from({ length: KEYS }, (_, index) => `k${index}`);

export const CALLER_NAMES: readonly string[] = Array.from({ length: CALLERS }, (_, index) => `caller-${index}`);

export function planWorkloads(): readonly Workload[] {
  return Array.from({ length: WORKLOADS }, (_, index) => ({
    ...{ index, scope: `workload-${index}`, kind: kindOf(index) },
    caller: `caller-${Math.floor((index * CALLERS) / WORKLOADS)}`,
    key: `k${index < OWN ? index : OWN + (index % OWN)}`,
    door: index % 2 === 0 ? "native" : "p11kit",
  }));
}

/** Each kind at both doors, with keys of their own and shared ones. */
function kindOf(index: number): Kind {
  if ([3, 6].includes(index % 8)) return "greedy";
  return [5, 10].includes(index % 16) ? "counted" : "modest";
}

/** The scopes of a policy. */
export function scopesOf(workloads: readonly Workload[]): readonly Record<string, unknown>[] {
  return workloads.map(({ scope, caller, key, kind }) => ({
    ...{ name: scope, caller, key, audit: "written", mechanisms: [{ type: "CKM_ECDSA", digest: "sha256" }] },
    ...LIMITS[kind],
  }));
}
