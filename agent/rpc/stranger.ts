import { recordRefusal } from "../broker/operation.ts";
import type { ScopeState } from "../broker/scope-state.ts";
import { nameOf, OPS } from "../client/protocol.ts";
import type { Peer } from "../identity.ts";
import { encodeAnswer, refusal } from "./answer.ts";
import type { Requests } from "./caller.ts";
import type { Frame, RequestMemory } from "./frames.ts";
import type { Outbox } from "./outbox.ts";

const ATTEMPTS = ["sign", "decrypt", "unwrap"] as const;

/** Of a peer that is not the scope's caller: everything is refused, and HELLO and each attempt to use a key are recorded. */
export class StrangerRequests implements Requests {
  readonly #record: (operation: "connect" | (typeof ATTEMPTS)[number]) => Promise<void>;
  readonly #outbox: Outbox;
  readonly #memory: RequestMemory;

  private constructor(record: StrangerRequests["#record"], outbox: Outbox, memory: RequestMemory) {
    this.#record = record;
    this.#outbox = outbox;
    this.#memory = memory;
  }

  static async open(
    state: ScopeState,
    peer: Peer | null,
    outbox: Outbox,
    memory: RequestMemory,
    reason: string,
  ): Promise<Requests> {
    const record: StrangerRequests["#record"] = (operation) => recordRefusal(state, peer, operation, reason);
    const requests = new StrangerRequests(record, outbox, memory);
    await record("connect");
    await outbox.send(encodeAnswer(0, refusal("not-allowed")));
    return requests;
  }

  async take({ id, op, size }: Frame): Promise<void> {
    try {
      const name = nameOf(OPS, op);
      const attempt = ATTEMPTS.find((candidate) => candidate === name);
      if (attempt !== undefined) await this.#record(attempt);
      await this.#outbox.send(encodeAnswer(id, refusal("not-allowed")));
    } finally {
      this.#memory.give(size);
    }
  }

  async settled(): Promise<void> {}
}
