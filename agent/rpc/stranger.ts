import { recordStranger } from "../broker/operation.ts";
import type { ScopeState } from "../broker/scope-state.ts";
import { nameOf, OPS } from "../client/protocol.ts";
import type { Visit } from "../scopes/door.ts";
import { encodeAnswer, refusal } from "./answer.ts";
import type { Frame, Requests } from "./frames.ts";
import type { Outbox } from "./outbox.ts";

const ATTEMPTS = ["sign", "decrypt", "unwrap"] as const;

/** Those of a peer that is not the scope's caller: everything is refused, and HELLO and each attempt to use a key are recorded. */
export class StrangerRequests implements Requests {
  readonly #state: ScopeState;
  readonly #visit: Visit;
  readonly #outbox: Outbox;
  readonly #reason: string;

  /** @param reason why the peer is not the caller, for the record */
  constructor(state: ScopeState, visit: Visit, outbox: Outbox, reason: string) {
    this.#state = state;
    this.#visit = visit;
    this.#outbox = outbox;
    this.#reason = reason;
  }

  async greet(): Promise<void> {
    await this.#refuse(0, "connect");
  }

  async take({ id, op, size }: Frame): Promise<void> {
    try {
      const name = nameOf(OPS, op);
      await this.#refuse(id, ATTEMPTS.find((attempt) => attempt === name) ?? null);
    } finally {
      this.#visit.memory.give(size);
    }
  }

  async settled(): Promise<void> {}

  async #refuse(id: number, recorded: "connect" | (typeof ATTEMPTS)[number] | null): Promise<void> {
    if (recorded !== null) await recordStranger(this.#state, this.#visit.caller.peer, recorded, this.#reason);
    await this.#outbox.send(encodeAnswer(id, refusal("not-allowed")));
  }
}
