import { recordRefusal, strangerReason } from "../broker/operation.ts";
import type { ScopeState } from "../broker/scope-state.ts";
import type { Peer } from "../identity.ts";
import { type Answer, done, encodeAnswer, refusal } from "./answer.ts";
import { type Frame, malformed, type RequestMemory } from "./frames.ts";
import { encodeHello, inFlightOf } from "./hello.ts";
import { answerOperation } from "./operations.ts";
import type { Outbox } from "./outbox.ts";
import { type OperationRequest, parseRequest, type Request } from "./requests.ts";
import { Sessions } from "./sessions.ts";

/** Requests that the connection answers: in order, or on their own. */
export interface Requests {
  /** Resolves when the next request may be read. Rejects for what breaks the protocol, or when the peer is gone. */
  take(frame: Frame): Promise<void>;
  /** Resolves when everything is answered. */
  settled(): Promise<void>;
}

/** One request in work. */
interface Work {
  isCancelled: boolean;
}

/** Those of the scope's caller: operations run side by side, everything else is answered as it comes. */
export class CallerRequests implements Requests {
  readonly #state: ScopeState;
  readonly #peer: Peer | null;
  readonly #outbox: Outbox;
  readonly #memory: RequestMemory;
  readonly #sessions: Sessions;
  /** By id, until they are answered. */
  readonly #inWork = new Map<number, Work>();
  /** Those in work, and those that were cancelled and are not done. */
  #running = 0;
  #freed: () => void = () => {};

  private constructor(state: ScopeState, peer: Peer | null, outbox: Outbox, memory: RequestMemory) {
    this.#state = state;
    this.#peer = peer;
    this.#outbox = outbox;
    this.#memory = memory;
    this.#sessions = new Sessions(state);
  }

  static async open(state: ScopeState, peer: Peer | null, outbox: Outbox, memory: RequestMemory): Promise<Requests> {
    const requests = new CallerRequests(state, peer, outbox, memory);
    await requests.#reply(0, done(encodeHello(state, requests.#sessions.open() ?? 0)));
    return requests;
  }

  async take(frame: Frame): Promise<void> {
    let isRunning = false;
    try {
      if (this.#inWork.has(frame.id)) throw malformed("id", "one that is not in use", `${frame.id}`);
      const request = parseRequest(frame);
      if (request.kind !== "sign" && request.kind !== "decrypt" && request.kind !== "unwrap") {
        return await this.#reply(frame.id, await this.#answerSmall(request));
      }
      const most = inFlightOf(this.#state);
      while (this.#running >= most) await this.#free();
      isRunning = true;
      void this.#run(frame, request);
    } finally {
      if (!isRunning) this.#memory.give(frame.size);
    }
  }

  async settled(): Promise<void> {
    while (this.#running > 0) await this.#free();
  }

  /** Never rejects. An answer that is lost is lost with its connection, which ends by itself. */
  async #run(frame: Frame, request: OperationRequest): Promise<void> {
    const work: Work = { isCancelled: false };
    this.#inWork.set(frame.id, work);
    this.#running += 1;
    try {
      const answer = await this.#operate(request);
      if (work.isCancelled) answer.payload.fill(0);
      else {
        // Before it is sent: the client may use the id again as soon as it has the reply.
        this.#inWork.delete(frame.id);
        await this.#reply(frame.id, answer);
      }
    } catch {
      // the reply found no reader
    } finally {
      this.#running -= 1;
      this.#memory.give(frame.size);
      this.#freed();
    }
  }

  async #operate(request: OperationRequest): Promise<Answer> {
    const over = this.#sessions.use(request.session);
    if (over === null) return answerOperation(this.#state, this.#peer, request);
    await recordRefusal(this.#state, this.#peer, request.kind, over, "session");
    return refusal("expired");
  }

  async #answerSmall(request: Exclude<Request, OperationRequest>): Promise<Answer> {
    switch (request.kind) {
      case "hello":
        return strangerReason(this.#state, this.#peer) === null
          ? done(encodeHello(this.#state, 0))
          : refusal("not-allowed");
      case "open":
        return openedAnswer(this.#sessions.open());
      case "close":
        this.#sessions.close(request.session);
        return done();
      case "cancel":
        await this.#cancel(request.id);
        return done();
      case "ping":
        return done();
      case "unknown":
        return refusal("unsupported");
    }
  }

  /** What was begun goes on: a token cannot be asked to stop. Its place stays taken until then. */
  async #cancel(id: number): Promise<void> {
    const work = this.#inWork.get(id);
    if (work === undefined) return;
    work.isCancelled = true;
    this.#inWork.delete(id);
    await this.#reply(id, refusal("cancelled"));
  }

  #reply(id: number, answer: Answer): Promise<void> {
    return this.#outbox.send(encodeAnswer(id, answer));
  }

  /** The reader alone waits here. */
  #free(): Promise<void> {
    return new Promise((resolve) => {
      this.#freed = resolve;
    });
  }
}

function openedAnswer(session: number | null): Answer {
  if (session === null) return refusal("busy");
  const payload = new Uint8Array(4);
  new DataView(payload.buffer).setUint32(0, session);
  return done(payload);
}
