import { setMaxListeners } from "node:events";
import type { NativeBinding, NativeConnection, NativeValue } from "./binding.ts";
import { ESYS_TR } from "./constants.ts";
import { TpmError } from "./errors.ts";

/** How a handle is given up: flushed from the TPM, or only forgotten by ESYS (persistent objects, NV indices). */
export type Release = "FlushContext" | "TR_Close";

/** One command on its way to the TPM. */
export interface Request {
  /** Its name in native/commands-*.c. */
  readonly command: string;
  readonly inputs: readonly NativeValue[];
  readonly sessions?: readonly number[];
  /** Keeps the command from being sent; once it was, changes nothing. */
  readonly signal?: AbortSignal | undefined;
  /** The first answer is a handle, to be given up like this: at the latest by `close`. */
  readonly holds?: Release | undefined;
  /** The handle that this command gives up; skipped while another owner has it too. */
  readonly gives?: number | undefined;
}

/** A handle that was made here. A persistent object or NV index that is opened twice has one ESYS_TR, and two owners. */
interface Held {
  readonly command: Release;
  readonly owners: number;
}

const MAX_SESSIONS = 3;
const BAD_SEQUENCE = 0x70007; // TSS2_ESYS_RC_BAD_SEQUENCE
/** Asks ESYS whether it takes commands; sends nothing. */
const PROBE = { command: "Ready", inputs: [] } as const satisfies Request;
const NO_SESSIONS = [ESYS_TR.none, ESYS_TR.none, ESYS_TR.none] as const;
/** TSS2_RC_LAYER of the TPM and of a resource manager: a response that ESYS has taken for one, whatever it says. */
const ANSWERING_LAYERS: readonly number[] = [0, 11, 12];

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
  get length(): number {
    return this.#values.length;
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
  /** Resolves with the error of the command after which ESYS takes no other. */
  readonly lost: Promise<TpmError>;
  #lose: (error: TpmError) => void = () => undefined;
  #isLost = false;
  readonly #binding: NativeBinding;
  readonly #native: NativeConnection;
  readonly #held = new Map<number, Held>();
  #tail: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | null = null;

  constructor(binding: NativeBinding) {
    this.#binding = binding;
    this.#native = binding.connection();
    this.lost = new Promise((resolve) => {
      this.#lose = resolve;
    });
  }

  /** Throws TpmError with the TPM's or the library's answer; the signal's reason; TypeError after `close`. */
  run(request: Request): Promise<Answers> {
    return this.#closing === null ? this.#enqueue(request) : Promise.reject(this.ended(request.command));
  }

  /** Why nothing is sent any more. A connection that was lost says so also once it is closed. */
  ended(command: string): Error {
    return this.#isLost ? this.#errorOf(BAD_SEQUENCE, command) : new TypeError(`${command}: the connection is closed`);
  }

  get isLost(): boolean {
    return this.#isLost;
  }

  /** The handle is gone already: the command before this said so. */
  forget(handle: number): void {
    this.#held.delete(handle);
  }

  /** For one owner, who does it once. Does nothing for a handle that is gone. */
  async release(handle: number, signal?: AbortSignal): Promise<void> {
    const held = this.#held.get(handle);
    if (held === undefined) return;
    try {
      // Whether another owner has it too shows in the command's turn: an opening may wait before it.
      await this.#enqueue({ command: held.command, inputs: [handle], gives: handle, signal });
    } catch (cause) {
      // ESYS takes no command after an answer that failed its checks: the error that said so must not be hidden by this one.
      if (!(cause instanceof TpmError && cause.rc === BAD_SEQUENCE)) throw cause;
    }
  }

  /** Waits for queued commands, releases what is still held, ends the connection. May be called twice. */
  close(): Promise<void> {
    this.#closing ??= this.#releaseAllAndClose();
    return this.#closing;
  }

  async #releaseAllAndClose(): Promise<void> {
    // Queued commands may still add handles: let them end first.
    await this.#tail;
    // A TPM that no longer answers must not keep the connection open.
    const handles = [...this.#held].reverse().flatMap(([handle, { owners }]) => Array<number>(owners).fill(handle));
    await Promise.allSettled(handles.map((handle) => this.release(handle)));
    await this.#enqueue({ command: "Close", inputs: [] });
  }

  async #enqueue(request: Request): Promise<Answers> {
    const { command, sessions = [], signal } = request;
    if (sessions.length > MAX_SESSIONS)
      throw new TypeError(`${command} sessions: expected at most ${MAX_SESSIONS}, got ${sessions.length}`);
    signal?.throwIfAborted();
    const inputs = snapshot(command, request.inputs);
    let sent = false;
    const answers = this.#tail
      .then(() => {
        signal?.throwIfAborted();
        sent = true;
        return this.#send({ ...request, inputs });
      })
      .finally(() => wipe(inputs));
    this.#tail = answers.catch(() => undefined);
    try {
      return await (signal === undefined ? answers : unlessAborted(answers, signal, () => !sent));
    } catch (cause) {
      // A number that was not sent for is the signal's reason.
      throw sent && typeof cause === "number" ? this.#errorOf(cause, command) : cause;
    }
  }

  async #send({ command, inputs, sessions = [], holds, gives }: Request): Promise<Answers> {
    if (gives !== undefined && !this.#giveUp(gives)) return new Answers([]);
    const [first = ESYS_TR.none, second = ESYS_TR.none, third = ESYS_TR.none] = sessions;
    try {
      const answers = new Answers(await this.#binding.run(this.#native, command, [first, second, third], inputs));
      if (holds !== undefined && answers.length > 0) this.#hold(answers.number(0), holds);
      return answers;
    } catch (cause) {
      if (typeof cause === "number" && !(await this.#isReadyAfter(cause))) this.#noteLoss(cause, command);
      throw cause;
    }
  }

  /** Whether ESYS takes another command: it takes none after one that was not sent whole, or not answered with what is a response. */
  #isReadyAfter(rc: number): Promise<boolean> {
    if (this.#isLost || ANSWERING_LAYERS.includes((rc >>> 16) & 0xff)) return Promise.resolve(true);
    return this.#binding.run(this.#native, PROBE.command, NO_SESSIONS, PROBE.inputs).then(
      () => true,
      (ready: unknown) => ready !== BAD_SEQUENCE,
    );
  }

  #noteLoss(rc: number, command: string): void {
    this.#isLost = true;
    this.#lose(this.#errorOf(rc, command));
  }

  #errorOf(rc: number, command: string): TpmError {
    return new TpmError(rc, command, this.#binding.decode(rc));
  }

  #hold(handle: number, command: Release): void {
    this.#held.set(handle, { command, owners: 1 + (this.#held.get(handle)?.owners ?? 0) });
  }

  /** Whether that was its last owner. */
  #giveUp(handle: number): boolean {
    const held = this.#held.get(handle);
    if (held === undefined) return false;
    if (held.owners === 1) return this.#held.delete(handle);
    this.#held.set(handle, { ...held, owners: held.owners - 1 });
    return false;
  }
}

/** Copies, so that the caller may use its buffers again while the command waits. */
function snapshot(command: string, inputs: readonly NativeValue[]): readonly NativeValue[] {
  return inputs.map((input) => {
    if (typeof input === "number") return input;
    if (!(input instanceof Uint8Array)) throw new TypeError(`${command}: expected a Uint8Array, got ${typeof input}`);
    return new Uint8Array(input);
  });
}

function wipe(inputs: readonly NativeValue[]): void {
  for (const input of inputs) if (typeof input !== "number") input.fill(0);
}

/** `answer`, or the signal's reason as soon as it aborts while `waits()`. */
function unlessAborted<T>(answer: Promise<T>, signal: AbortSignal, waits: () => boolean): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      if (waits()) reject(signal.reason);
    };
    setMaxListeners(0, signal); // one for each command that waits is no leak
    signal.addEventListener("abort", abort, { once: true });
    answer.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
