import type { NativeValue } from "./binding.ts";
import type { Answers, Connection, Release } from "./connection.ts";
import { ESYS_TR } from "./constants.ts";
import { type Authorization, TpmHandle } from "./handles.ts";

/** What every command takes, and every method that only asks ESYS. */
export interface SignalOptions {
  /**
   * A command that still waits when this aborts is never sent, and rejects with the signal's reason. One that was sent runs
   * to its end. A method that sends several commands stops before the next.
   */
  readonly signal?: AbortSignal | undefined;
}

/** What every command takes that can have sessions. */
export interface CommandOptions extends SignalOptions {
  /** The authorisations of the command's handles in order, then any sessions that only encrypt or authenticate. */
  readonly sessions?: readonly Authorization[];
}

/** An input of a command: a handle, the name of one that always exists, a number, or bytes. */
export type Input = NativeValue | TpmHandle | keyof typeof ESYS_TR;

/**
 * What the command groups share. Each group extends the one before it, up to `Tpm`: one class for the caller, one file for
 * each group, and no second list of the methods.
 */
export abstract class Commands {
  protected connection: Connection;

  constructor(connection: Connection) {
    this.connection = connection;
  }

  /** `authorizations` are used when the caller gives no sessions. */
  protected run(
    command: string,
    inputs: readonly Input[],
    options: CommandOptions = {},
    authorizations: readonly Authorization[] = [],
    holds?: Release,
  ): Promise<Answers> {
    const sessions = (options.sessions ?? authorizations).map((session) => this.#handle(session));
    return this.connection.run({
      command,
      inputs: inputs.map((input) =>
        typeof input === "string" || input instanceof TpmHandle ? this.#handle(input) : input,
      ),
      sessions,
      signal: options.signal,
      holds,
    });
  }

  #handle(handle: TpmHandle | keyof typeof ESYS_TR): number {
    return typeof handle === "string" ? ESYS_TR[handle] : handle.trOn(this.connection);
  }
}

export const NOTHING: Uint8Array = new Uint8Array(0);
