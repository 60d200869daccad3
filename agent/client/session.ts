import { untilAborted } from "./abort.ts";
import { join, text, u32 } from "./bytes.ts";
import type { CallOptions, Client } from "./client.ts";
import { ClientError, RefusedError } from "./errors.ts";
import type { Link } from "./link.ts";
import { encodeForm, encodeInput, encodeUse, type Key } from "./messages.ts";
import type { Does, Form, Mechanism } from "./protocol.ts";

interface Use {
  /** The policy's name of the key; may be left out where the scope shows one key that does this. */
  readonly key?: string | undefined;
  readonly mechanism: Mechanism;
}

/** One input, in the form that the mechanism takes (`takes` of the key's mechanism). */
export type SignInput = Use &
  (
    | { readonly digest: Uint8Array }
    /** The agent hashes it. */
    | { readonly message: Uint8Array }
    /** Raw RSA: a number below the modulus, of its length. */
    | { readonly block: Uint8Array }
  );
export type DecryptInput = Use & { readonly ciphertext: Uint8Array };
export type UnwrapInput = Use & {
  /** The policy's name of the key that is to come out (`unwraps`). */
  readonly arriving: string;
  readonly blob: Uint8Array;
};

/**
 * A session of a scope. It outlives the connection: on another one it is opened again, unseen. Every call may reject with RefusedError,
 * ClientError or the signal's reason. Inputs are copied when the call is made.
 */
export class Session implements AsyncDisposable {
  readonly #client: Client;
  /** Its number on one connection; asked for once. */
  #open: { readonly link: Link; readonly number: Promise<number> } | null = null;
  #isClosed = false;

  /** @internal use `client.session()` */
  constructor(client: Client) {
    this.#client = client;
  }

  get keys(): readonly Key[] {
    return this.#client.keys;
  }

  /** @returns the signature as PKCS #11 defines it (ECDSA: r and s, each of the field's size) */
  sign(input: SignInput, options: CallOptions = {}): Promise<Uint8Array> {
    return this.#operate("sign", input, () => signInput(input), options);
  }

  /** @returns the plaintext, in memory of its own: the caller wipes it */
  decrypt(input: DecryptInput, options: CallOptions = {}): Promise<Uint8Array> {
    return this.#operate("decrypt", input, () => encodeInput(input.ciphertext), options);
  }

  /** The key that comes out is used through the scopes that name this one in `from`. */
  async unwrap(input: UnwrapInput, options: CallOptions = {}): Promise<void> {
    await this.#operate("unwrap", input, () => join(text(input.arriving), encodeInput(input.blob)), options);
  }

  /** Ends the session at the agent, if it is open there. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const open = this.#open;
    this.#open = null;
    if (open === null || open.link.isLost) return;
    try {
      await open.link.closeSession(await open.number);
    } catch {
      // a connection that broke has ended it too
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #operate(op: Does, use: Use, input: () => Uint8Array, { signal }: CallOptions): Promise<Uint8Array> {
    if (this.#isClosed) throw new ClientError("ERR_CLIENT_CLOSED", "session: closed");
    const rest = join(encodeUse(use.key ?? onlyKey(this.keys, op), use.mechanism), input());
    for (;;) {
      const link = await this.#client.link(signal);
      const number = await untilAborted(this.#numberOn(link), signal);
      try {
        const result = await link.operate(op, join(u32(number), rest), signal);
        // Null: the connection broke while this waited for a place. Nothing was sent, so it may go over the next one.
        if (result !== null) return result;
      } catch (error) {
        if (error instanceof RefusedError && error.reason === "expired") this.#forget(link);
        throw error;
      }
    }
  }

  async #numberOn(link: Link): Promise<number> {
    if (this.#open?.link !== link) this.#open = { link, number: link.openSession() };
    try {
      return await this.#open.number;
    } catch (cause) {
      this.#forget(link);
      if (!(cause instanceof ClientError) || cause.code !== "ERR_CLIENT_CONNECTION_LOST") throw cause;
      throw new ClientError("ERR_CLIENT_UNREACHABLE", "session: the connection broke before anything was asked", cause);
    }
  }

  /** The next call opens it again. */
  #forget(link: Link): void {
    if (this.#open?.link === link) this.#open = null;
  }
}

function onlyKey(keys: readonly Key[], does: Does): string {
  const [key, ...others] = keys.filter((candidate) => candidate.does === does);
  if (key !== undefined && others.length === 0) return key.name;
  throw new TypeError(
    `key: expected one that the scope shows for ${does}, got ${key === undefined ? "none" : "several"}`,
  );
}

function signInput(input: SignInput): Uint8Array {
  const given = (["digest", "message", "block"] as const).filter((form) => form in input);
  const [form, ...others] = given;
  if (form === undefined || others.length > 0)
    throw new TypeError(`input: expected one of digest, message and block, got ${given.length}`);
  return join(encodeForm(form), encodeInput(inputOf(input, form)));
}

function inputOf(input: SignInput, form: Form): Uint8Array {
  const bytes = (input as Partial<Record<Form, Uint8Array>>)[form];
  if (bytes instanceof Uint8Array) return bytes;
  throw new TypeError(`${form}: expected a Uint8Array`);
}
