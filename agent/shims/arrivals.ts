import type { Shim } from "../shim-client.ts";
import type { KeyPlace } from "./domain-shim.ts";

/** A key that comes in by unwrap. */
export interface ArrivingKey {
  /** By which it is used from then on. */
  readonly name: string;
  /** The key of the policy that unwraps it. */
  readonly by: string;
  /** `sha256:<hex>` of what is unwrapped. */
  readonly blob: string;
  /** An object of a session ends with its shim, and is unwrapped again in the one that takes over. */
  readonly where: "session" | "token";
  /** Whether the policy in force would still let it in. */
  readonly stillAllowed: () => boolean;
  /** Unwraps it as a nameless object of the session, which a wrong one may stay. @returns its handle */
  readonly tryOut: (shim: Shim, place: KeyPlace) => Promise<bigint>;
  /** Unwraps it as what the policy says. @returns its handle */
  readonly unwrap: (shim: Shim, place: KeyPlace) => Promise<bigint>;
  /** Rejects when it is not the key that was expected. */
  readonly prove: (shim: Shim, place: KeyPlace) => Promise<void>;
}

/** A shim, and where it holds the keys that came in. */
interface Host {
  readonly shim: Shim;
  readonly arrived: Map<string, KeyPlace>;
}

/**
 * First without a name: what is not the expected key keeps no name of it occupied, and does not come to lie on the token. The second one is
 * the same bytes again, and proves it all the same.
 */
export async function letIn(member: Host, { slotId, handle }: KeyPlace, key: ArrivingKey): Promise<void> {
  const { shim } = member;
  const by = { slotId, handle };
  await key.prove(shim, { slotId, handle: await key.tryOut(shim, by) });
  const made = { slotId, handle: await key.unwrap(shim, by) };
  await key.prove(shim, made);
  member.arrived.set(key.name, made);
}
