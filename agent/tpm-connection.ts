import { setTimeout as delay } from "node:timers/promises";
import { type Reason, reason } from "../attest/index.ts";
import type { MachineTpm } from "../seal/index.ts";
import { failureOf, journal } from "./journal.ts";

/** Milliseconds between two tries: doubled from the first on. */
interface Pauses {
  readonly first: number;
  readonly longest: number;
}

const PAUSES: Pauses = { first: 100, longest: 10_000 };

/**
 * The connection to the TPM of a machine whose launch is over. One command that is not answered leaves a connection that takes no other: it is
 * opened again, as often as that takes, and whoever asks meanwhile gets an error. Nothing is repeated here, since a command that was not
 * answered may have been carried out. Before the launch is over nothing is opened again: a launch that loses its TPM is refused.
 */
export class TpmConnection {
  readonly #tpm: Pick<MachineTpm, "reopen" | "tss">;
  readonly #pauses: Pauses;
  #unreachable: Reason | null = null;

  constructor(tpm: Pick<MachineTpm, "reopen" | "tss">, pauses: Pauses = PAUSES) {
    this.#tpm = tpm;
    this.#pauses = pauses;
  }

  /** The launch is over, and the agent PCR is capped. */
  begin(): void {
    void this.#keep();
  }

  /** What a machine that serves has to say of it. */
  get warnings(): readonly Reason[] {
    return this.#unreachable === null ? [] : [this.#unreachable];
  }

  async #keep(): Promise<never> {
    for (;;) {
      const error = await this.#tpm.tss.lost;
      journal.warning(`tpm-lost: ${error.message}`);
      await this.#reopen();
      journal.notice("TPM: opened again");
    }
  }

  async #reopen(): Promise<void> {
    for (let pause = this.#pauses.first; ; pause = Math.min(2 * pause, this.#pauses.longest)) {
      const problem = await this.#tpm.reopen().then(() => null, failureOf);
      if (problem !== null && this.#unreachable === null) journal.error(`tpm-unreachable: ${problem}`);
      this.#unreachable = problem === null ? null : reason("tpm-unreachable", "TPM", "a connection", problem);
      if (problem === null) return;
      await delay(pause, undefined, { ref: false });
    }
  }
}
