import type { Socket } from "node:net";
import { untilAborted } from "./abort.ts";
import { u32 } from "./bytes.ts";
import { dial, unreachable } from "./dial.ts";
import { ClientError, protocolError } from "./errors.ts";
import {
  encodeClientGreeting,
  encodeRequest,
  type Hello,
  type Reply,
  readHello,
  readRefusal,
  readSession,
} from "./messages.ts";
import { Places } from "./places.ts";
import { HEAD, type OPS } from "./protocol.ts";
import { ReplySplitter } from "./replies.ts";

type Op = keyof typeof OPS;

/** A request without its reply. Called once, with one of the two. */
interface Pending {
  readonly answered: (reply: Reply) => void;
  readonly lost: (error: ClientError) => void;
}

/** One connection to the agent. It ends once, and is not made anew: that is the client's part. */
export class Link {
  readonly #socket: Socket;
  readonly #splitter = new ReplySplitter();
  readonly #pending = new Map<number, Pending>();
  /** Of operations that are sent and not answered. */
  readonly #places = new Places();
  #onIdle: (() => void)[] = [];
  #nextId = 0;
  #hello: Hello | null = null;
  #firstSession = 0;
  #lost: ClientError | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (piece: Buffer) => this.#receive(piece));
    socket.on("error", (cause) => this.#lose(cause));
    socket.on("close", () => this.#lose());
  }

  /**
   * Connects and reads who is served, and with what.
   * @throws ClientError `ERR_CLIENT_UNREACHABLE`; RefusedError when this process is not the scope's caller
   */
  static async open(path: string, signal?: AbortSignal): Promise<Link> {
    const link = new Link(await dial(path, signal));
    const hello = new Promise<Uint8Array>((resolve, reject) => link.#expect(0, resolve, reject));
    link.#write(encodeClientGreeting());
    try {
      link.#hello = readHello(await untilAborted(hello, signal));
      link.#firstSession = link.#hello.session;
      return link;
    } catch (error) {
      link.destroy();
      throw error instanceof ClientError && error.code === "ERR_CLIENT_CONNECTION_LOST"
        ? unreachable(path, error)
        : error;
    }
  }

  get isLost(): boolean {
    return this.#lost !== null;
  }

  /** What the agent said last. */
  get hello(): Hello {
    if (this.#hello === null) throw new TypeError("link: not open");
    return this.#hello;
  }

  /** Asks for HELLO again. */
  async refresh(signal?: AbortSignal): Promise<void> {
    this.#hello = await this.#read(this.#ask("hello", new Uint8Array(), signal), readHello);
  }

  async ping(signal?: AbortSignal): Promise<void> {
    await this.#ask("ping", new Uint8Array(), signal);
  }

  /** A session of this connection: the one that HELLO brought, or another. */
  async openSession(): Promise<number> {
    const first = this.#firstSession;
    this.#firstSession = 0;
    return first === 0 ? this.#read(this.#ask("open", new Uint8Array()), readSession) : first;
  }

  async closeSession(session: number): Promise<void> {
    await this.#ask("close", u32(session));
  }

  /** SIGN, DECRYPT or UNWRAP, once the agent has a place for it. Null: the connection broke before, and nothing was sent. */
  async operate(op: Op, payload: Uint8Array, signal?: AbortSignal): Promise<Uint8Array | null> {
    const most = this.hello.maxLength - HEAD;
    if (payload.length > most) throw new TypeError(`request: expected at most ${most} bytes, got ${payload.length}`);
    if (this.isLost || !(await this.#places.take(this.hello.inFlight, signal)) || this.isLost) return null;
    return this.#ask(op, payload, signal, () => this.#places.leave());
  }

  /** Waits for the replies that are due, then disconnects. */
  async close(): Promise<void> {
    this.#places.dismiss();
    while (this.#pending.size > 0) await new Promise<void>((resolve) => this.#onIdle.push(resolve));
    this.destroy();
  }

  destroy(): void {
    this.#lose();
    this.#socket.destroy();
  }

  /** @param ended called when the agent is done with it, which an abort does not wait for */
  #ask(op: Op, payload: Uint8Array, signal?: AbortSignal, ended: () => void = () => {}): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (this.#lost !== null || signal?.aborted === true) {
        ended();
        throw this.#lost ?? signal?.reason;
      }
      const id = this.#newId();
      const bytes = encodeRequest(id, op, payload);
      const abort = (): void => {
        reject(signal?.reason);
        this.#cancel(id);
      };
      const over = (): void => {
        signal?.removeEventListener("abort", abort);
        ended();
      };
      signal?.addEventListener("abort", abort, { once: true });
      this.#expect(
        id,
        (result) => {
          over();
          // Nobody wants it any more, and it may be a plaintext.
          if (signal?.aborted === true) result.fill(0);
          resolve(result);
        },
        (error) => {
          over();
          reject(error);
        },
      );
      this.#write(bytes);
    });
  }

  #expect(id: number, resolve: (result: Uint8Array) => void, reject: (error: Error) => void): void {
    const answered = (reply: Reply): void => {
      if (reply.reason === 0) {
        resolve(reply.payload);
        return;
      }
      try {
        reject(readRefusal(reply));
      } catch (error) {
        reject(error as ClientError); // readRefusal throws no other
        throw error;
      }
    };
    this.#pending.set(id, { answered, lost: reject });
  }

  /** A result that cannot be read ends the connection, as everything does that the protocol does not allow. */
  async #read<T>(result: Promise<Uint8Array>, read: (payload: Uint8Array) => T): Promise<T> {
    const payload = await result;
    try {
      return read(payload);
    } catch (error) {
      this.#lose(error as ClientError); // readers throw no other
      this.#socket.destroy();
      throw error;
    }
  }

  #cancel(id: number): void {
    if (this.#lost === null && this.#pending.has(id)) this.#ask("cancel", u32(id)).catch(() => {}); // whatever the reply, the caller has gone
  }

  #receive(piece: Uint8Array): void {
    try {
      this.#splitter.push(piece);
      for (let reply = this.#splitter.next(); reply !== null; reply = this.#splitter.next()) this.#settle(reply);
    } catch (cause) {
      this.#lose(cause instanceof ClientError ? cause : undefined);
      this.#socket.destroy();
    }
  }

  #settle(reply: Reply): void {
    const pending = this.#pending.get(reply.id);
    if (pending === undefined) throw protocolError("an id that was not asked");
    this.#pending.delete(reply.id);
    pending.answered(reply);
    this.#wakeIdle();
  }

  #lose(cause?: Error): void {
    if (this.#lost !== null) return;
    const isProtocol = cause instanceof ClientError;
    this.#lost = isProtocol
      ? cause
      : new ClientError("ERR_CLIENT_CONNECTION_LOST", "connection to the agent: lost before the reply", cause);
    this.#places.dismiss();
    for (const { lost } of this.#pending.values()) lost(this.#lost);
    this.#pending.clear();
    this.#wakeIdle();
  }

  #wakeIdle(): void {
    if (this.#pending.size === 0) for (const wake of this.#onIdle.splice(0)) wake();
  }

  /** What is asked in one turn of the event loop goes out in one write. */
  #write(bytes: Uint8Array): void {
    if (this.#socket.writableCorked === 0) {
      this.#socket.cork();
      process.nextTick(() => this.#socket.uncork());
    }
    this.#socket.write(bytes);
  }

  #newId(): number {
    do this.#nextId = this.#nextId === 0xffff_ffff ? 1 : this.#nextId + 1;
    while (this.#pending.has(this.#nextId));
    return this.#nextId;
  }
}
