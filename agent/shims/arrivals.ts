import { AgentError } from "../errors.ts";
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
 * the same bytes again, and proves it all the same. Before each of them it is asked whether the key may still come in: one that was taken away
 * while a shim was waited for, or while it was tried out, does not come to lie on the token either.
 * @throws AgentError `ERR_KEY_GONE` for such a one, and what its proof throws
 */
export async function letIn(member: Host, { slotId, handle }: KeyPlace, key: ArrivingKey): Promise<void> {
  const { shim } = member;
  const by = { slotId, handle };
  requireAllowed(key);
  await key.prove(shim, { slotId, handle: await key.tryOut(shim, by) });
  requireAllowed(key);
  const made = { slotId, handle: await key.unwrap(shim, by) };
  await key.prove(shim, made);
  member.arrived.set(key.name, made);
}

function requireAllowed({ name, stillAllowed }: ArrivingKey): void {
  if (stillAllowed()) return;
  throw new AgentError("ERR_KEY_GONE", `key ${name}`, { expected: "one that the policy lets in", got: "taken away" });
}
