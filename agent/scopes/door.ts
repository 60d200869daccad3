import type { ScopeState } from "../broker/scope-state.ts";
import type { ReceiveMemory } from "../p11kit/frame.ts";
import type { Caller } from "./caller.ts";
import type { Channel } from "./channel.ts";
import type { Turn } from "./loop-turns.ts";

/** One connection, accepted and identified, of which nothing was read. */
export interface Visit {
  readonly channel: Channel;
  /** Perhaps no caller of the scope: `strangerReason` says. */
  readonly caller: Caller;
  /** Shared by all connections of the scope: what a door holds in unfinished requests it takes from here. */
  readonly memory: ReceiveMemory;
  /** To be asked before each request is looked at: no peer keeps the event loop for itself. */
  readonly turn: Turn;
}

/** Serves one connection to its end. Never rejects: what goes wrong ends this connection only. */
export type Door = (visit: Visit) => Promise<void>;

/** A door for one scope. */
export type OpenDoor = (state: ScopeState) => Door;

export type DoorName = "p11kit" | "rpc";

/** The protocols that are spoken on a scope's socket. */
export interface Doors<T> {
  readonly p11kit: T;
  readonly rpc?: T;
}

/** Highest version byte of the p11-kit protocol that is one; the native protocol's magic begins with a printable character. */
const LAST_P11KIT_VERSION = 0x1f;
/** `I` of "IRPC". */
const RPC_MAGIC = 0x49;

/** The name of the door for a connection, by its first byte; null when there is none. */
export function doorFor(doors: Doors<unknown>, first: number): DoorName | null {
  if (first <= LAST_P11KIT_VERSION) return "p11kit";
  return first === RPC_MAGIC && doors.rpc !== undefined ? "rpc" : null;
}
