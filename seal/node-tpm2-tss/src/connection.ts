import type { NativeBinding, NativeConnection, NativeValue } from "./binding.ts";
import { ESYS_TR } from "./constants.ts";
import { TpmError } from "./errors.ts";

/** How a handle is given up: flushed from the TPM, or only forgotten by ESYS (persistent objects, NV indices). */
export type Release = "FlushContext" | "TR_Close";

const MAX_SESSIONS = 3;

/** The answers of one command, in the order native/commands-*.c states. A wrong kind is a bug in this package. */
export class Answers {
  readonly #values: readonly NativeValue[];

  constructor(values: readonly NativeValue[]) {
    this.#values = values;
  }
  bytes(position: number): Uint8Array {
    const value = this.#values[position];
    if (!(value instanceof Uint8Array)) throw new TypeError(`answer ${position}: expected bytes`);
    return value;
  }
  number(position: number): number {
    const value = this.#values[position];
    if (typeof value !== "number") throw new TypeError(`answer ${position}: expected a number`);
    return value;
  }
  /** All answers from `position` on. */
  rest(position: number): readonly Uint8Array[] {
    return this.#values.slice(position).map((_, index) => this.bytes(position + index));
  }
}

/**
 * One ESYS context and the queue before it. ESYS contexts are not safe for threads, and waiting in JavaScript costs no
 * worker: so exactly one command is in flight, and commands run in the order of the calls. A failed command does not
 * hold up those behind it.
 */
export class Connection {
  readonly #binding: NativeBinding;
  readonly #native: NativeConnection;
  readonly #held = new Map<number, Release>();
  #tail: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | null = null;

  constructor(binding: NativeBinding) {
    this.#binding = binding;
    this.#native = binding.connection();
  }

  /** Throws TpmError with the TPM's or the library's answer; TypeError after `close`. */
  run(command: string, sessions: readonly number[], inputs: readonly NativeValue[]): Promise<Answers> {
    if (this.#closing !== null) return Promise.reject(new TypeError(`${command}: the connection is closed`));
    return this.#enqueue(command, sessions, inputs);
  }

  /** Remembers a handle until it is released, at the latest by `close`. */
  hold(handle: number, release: Release): void {
    this.#held.set(handle, release);
  }

  /** Does nothing for a handle that was released before. */
  async release(handle: number): Promise<void> {
    const command = this.#held.get(handle);
    if (command === undefined || !this.#held.delete(handle)) return;
    await this.#enqueue(command, [], [handle]);
  }

  /** Waits for queued commands, releases what is still held, ends the connection. May be called twice. */
  close(): Promise<void> {
    this.#closing ??= this.#releaseAllAndClose();
    return this.#closing;
  }

  async #releaseAllAndClose(): Promise<void> {
    // Queued commands may still add handles: let them end first.
    await this.#tail.catch(() => undefined);
    // A TPM that no longer answers must not keep the connection open.
    await Promise.allSettled([...this.#held.keys()].reverse().map((handle) => this.release(handle)));
    await this.#enqueue("Close", [], []);
  }

  async #enqueue(command: string, sessions: readonly number[], inputs: readonly NativeValue[]): Promise<Answers> {
    if (sessions.length > MAX_SESSIONS)
      throw new TypeError(`${command} sessions: expected at most ${MAX_SESSIONS}, got ${sessions.length}`);
    const [first = ESYS_TR.none, second = ESYS_TR.none, third = ESYS_TR.none] = sessions;
    const answer = this.#tail.then(() => this.#binding.run(this.#native, command, [first, second, third], inputs));
    this.#tail = answer.catch(() => undefined);
    try {
      return new Answers(await answer);
    } catch (cause) {
      throw typeof cause === "number" ? new TpmError(cause, command, this.#binding.decode(cause)) : cause;
    }
  }
}
