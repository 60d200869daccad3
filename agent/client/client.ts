import { join } from "node:path";
import { untilAborted } from "./abort.ts";
import { ClientError } from "./errors.ts";
import { Link } from "./link.ts";
import type { Key } from "./messages.ts";
import { Session } from "./session.ts";

/** Where our image has the scopes' sockets. */
const SCOPES = "/run/ironclaw/scopes";

export interface CallOptions {
  /** Ends the call at once, with the signal's reason. What the agent has begun runs to its end, is recorded, and gives nothing. */
  readonly signal?: AbortSignal | undefined;
}

/** The path of a scope's socket, or its name and the directory that it lies in (`/run/ironclaw/scopes`). */
export type Address = string | { readonly scope: string; readonly directory?: string };

/**
 * Connects to a scope's socket. The socket is the purpose: what may be done is what the policy says of the scope, and of this process.
 * @throws ClientError `ERR_CLIENT_UNREACHABLE`; RefusedError `not-allowed` when this process is not the scope's caller
 */
export async function connect(address: Address, { signal }: CallOptions = {}): Promise<Client> {
  signal?.throwIfAborted();
  const path = socketPath(address);
  return new Client(path, await Link.open(path, signal));
}

/**
 * A scope, over whatever connection there is: when the one it has breaks, the next call makes another. Calls that were under way then
 * reject with `ERR_CLIENT_CONNECTION_LOST`, and are not repeated. An open client keeps the process running.
 */
export class Client implements AsyncDisposable {
  readonly #path: string;
  #link: Link;
  #connecting: Promise<Link> | null = null;
  #isClosed = false;

  /** @internal use `connect` */
  constructor(path: string, link: Link) {
    this.#path = path;
    this.#link = link;
  }

  /** The scope's name in the policy. */
  get scope(): string {
    return this.#link.hello.scope;
  }

  /** What the scope showed when the connection was made, or at the last `refresh`. */
  get keys(): readonly Key[] {
    return this.#link.hello.keys;
  }

  /** A session of its own. Nothing is sent before it is used. */
  session(): Session {
    this.#throwIfClosed();
    return new Session(this);
  }

  /** Asks for the keys anew: a key may have arrived, and a policy in force may have become narrower. */
  async refresh({ signal }: CallOptions = {}): Promise<readonly Key[]> {
    const link = await this.link(signal);
    await link.refresh(signal);
    return link.hello.keys;
  }

  /** Resolves when the agent answers. */
  async ping({ signal }: CallOptions = {}): Promise<void> {
    await (await this.link(signal)).ping(signal);
  }

  /**
   * @internal The connection, made anew when it was lost. Callers share one attempt, which an abort leaves running for the others.
   * @throws ClientError `ERR_CLIENT_UNREACHABLE`, `ERR_CLIENT_CLOSED`
   */
  async link(signal?: AbortSignal): Promise<Link> {
    this.#throwIfClosed();
    signal?.throwIfAborted();
    if (!this.#link.isLost) return this.#link;
    this.#connecting ??= this.#reconnect();
    const link = await untilAborted(this.#connecting, signal);
    this.#throwIfClosed();
    return link;
  }

  async #reconnect(): Promise<Link> {
    try {
      this.#link = await Link.open(this.#path);
      if (this.#isClosed) this.#link.destroy();
      return this.#link;
    } finally {
      this.#connecting = null;
    }
  }

  /** Sends nothing more, waits for the calls that are under way, and disconnects. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#link.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #throwIfClosed(): void {
    if (this.#isClosed) throw new ClientError("ERR_CLIENT_CLOSED", "client: closed");
  }
}

function socketPath(address: Address): string {
  if (typeof address === "string") return address;
  const { scope, directory = SCOPES } = address;
  if (!/^[a-z0-9][a-z0-9-]{0,47}$/.test(scope))
    throw new TypeError(`scope: expected a name of the policy, got ${scope}`);
  return join(directory, `${scope}.sock`);
}
