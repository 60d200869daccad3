import type { Policy, Scope } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";
import { type BrokerKey, brokerKey, type PublicKeySource, verifyKeyUses } from "./key.ts";

export interface Arrival {
  readonly key: BrokerKey;
  readonly blob: string;
}

/** The keys of all scopes: those that the launch found, and those that arrived by unwrap since. */
export class KeyRing {
  readonly #keys = new Map<string, BrokerKey>();
  /** By the scope that let it in, then by name. */
  readonly #arrived = new Map<string, Map<string, Arrival>>();

  /**
   * @param sources by the policy's name of the key; every key that a scope names must be among them
   * @throws AgentError `ERR_LAUNCH` when a key is missing, is not the policy's, or stands for two
   */
  constructor(policy: Policy, sources: ReadonlyMap<string, PublicKeySource>) {
    verifyKeyUses(policy, sources);
    for (const scope of policy.scopes) {
      for (const name of this.#namesOf(scope)) if (!this.#keys.has(name)) this.#add(policy, scope, name, sources);
    }
  }

  /** A key of the scope by its name; null for one that it does not have, or that has not arrived. */
  find(scope: Pick<Scope, "keys" | "from">, name: string): BrokerKey | null {
    if (!scope.keys.includes(name)) return null;
    return scope.from === undefined ? (this.#keys.get(name) ?? null) : (this.arrival(scope.from, name)?.key ?? null);
  }

  /** A key that has arrived, with `sha256:<hex>` of the blob that it was; null before it has. */
  arrival(unwrapScope: string, name: string): Arrival | null {
    return this.#arrived.get(unwrapScope)?.get(name) ?? null;
  }

  /** A key that has proved to be the one that the policy expects. */
  arrive(unwrapScope: string, arrival: Arrival): void {
    const ring = this.#arrived.get(unwrapScope) ?? new Map<string, Arrival>();
    ring.set(arrival.key.name, arrival);
    this.#arrived.set(unwrapScope, ring);
  }

  /** A key that is gone from its token. Nothing happens for one that did not arrive. */
  leave({ place, name }: BrokerKey): void {
    const at = place.lastIndexOf("/");
    if (at > 0) this.#arrived.get(place.slice(0, at))?.delete(name);
  }

  #namesOf(scope: Scope): readonly string[] {
    return scope.from === undefined ? scope.keys : [];
  }

  #add(policy: Policy, scope: Scope, name: string, sources: ReadonlyMap<string, PublicKeySource>): void {
    const listed = policy.keys[name];
    const source = sources.get(name);
    if (listed === undefined || source === undefined) {
      const fields = { expected: `public key of ${name}`, got: "none" };
      throw new AgentError("ERR_LAUNCH", `scope ${scope.name} key`, fields);
    }
    this.#keys.set(name, brokerKey(name, source, listed.spki));
  }
}
