import type { Shim } from "../shim-client.ts";
import type { ProbedAttempts } from "./attempts.ts";

/** Where a key of the policy is in one shim: handles are of that shim's own session. */
export interface KeyPlace {
  readonly slotId: bigint;
  readonly handle: bigint;
  /** It signs in microseconds, not milliseconds: an EC key. Default: not. */
  readonly quick?: boolean;
}

/** A shim that is logged in to its token and whose keys were checked. */
export interface DomainShim {
  readonly id: number;
  readonly shim: Shim;
  /** From the start; the others are spares. */
  readonly serves: boolean;
  /** By the policy's name of the key. */
  readonly places: ReadonlyMap<string, KeyPlace>;
  /** Attempts that are not the library's. */
  readonly probed: ProbedAttempts;
}

export type ShimRole = "active" | "spare" | "ended";

/** A shim as reports and `status` show it. */
export interface ShimState {
  readonly token: string;
  readonly id: number;
  readonly role: ShimRole;
}
