import { strangerReason } from "../broker/operation.ts";
import type { ScopeState } from "../broker/scope-state.ts";
import { AgentError } from "../errors.ts";
import type { Visit } from "../scopes/door.ts";
import { type Answer, done, encodeAnswer, refusal } from "./answer.ts";
import { type Frame, malformed, type Requests } from "./frames.ts";
import { encodeHello, inFlightOf } from "./hello.ts";
import { answerOperation } from "./operations.ts";
import type { Outbox } from "./outbox.ts";
import { isOperation, type OperationRequest, parseRequest, type Request } from "./requests.ts";
import { Sessions } from "./sessions.ts";

/** One request in work. */
interface Work {
  isCancelled: boolean;
}

/** Those of the scope's caller: operations run side by side, everything else is answered as it comes. */
export class CallerRequests implements Requests {
  readonly #state: ScopeState;
  readonly #visit: Visit;
  readonly #outbox: Outbox;
  readonly #sessions: Sessions;
  /** By id, until they are answered. */
  readonly #inWork = new Map<number, Work>();
  /** Those in work, and those that were cancelled and are not done. */
  #running = 0;
  #freed: () => void = () => {};

  constructor(state: ScopeState, visit: Visit, outbox: Outbox) {
    this.#state = state;
    this.#visit = visit;
    this.#outbox = outbox;
    this.#sessions = new Sessions(state, visit.caller.peer);
  }

  /** With the session that is open from the start. */
  async greet(): Promise<void> {
    await this.#reply(0, done(encodeHello(this.#state, this.#sessions.open() ?? 0)));
  }

  async take(frame: Frame): Promise<void> {
    let isRunning = false;
    try {
      if (this.#inWork.has(frame.id)) throw malformed("id", "one that is not in use", `${frame.id}`);
      const request = parseRequest(frame);
      if (!isOperation(request)) return await this.#reply(frame.id, await this.#answerSmall(request));
      while (this.#running >= inFlightOf(this.#state)) await this.#free();
      await this.#verifyCaller(false);
      isRunning = true;
      void this.#run(frame, request);
    } finally {
      if (!isRunning) this.#visit.memory.give(frame.size);
    }
  }

  async settled(): Promise<void> {
    while (this.#running > 0) await this.#free();
  }

  /** Never rejects. */
  async #run(frame: Frame, request: OperationRequest): Promise<void> {
    const work: Work = { isCancelled: false };
    this.#inWork.set(frame.id, work);
    this.#running += 1;
    try {
      const answer = this.#sessions.use(request.session)
        ? await answerOperation(this.#state, this.#visit.caller.peer, request)
        : refusal("expired");
      if (work.isCancelled) answer.payload.fill(0);
      else {
        // Before it is sent: the client may use the id again as soon as it has the reply.
        this.#inWork.delete(frame.id);
        await this.#reply(frame.id, answer);
      }
    } catch {
      // Nobody reads the reply, or there is none: a client must not wait for it.
      this.#visit.channel.destroy();
    } finally {
      this.#running -= 1;
      this.#visit.memory.give(frame.size);
      this.#freed();
    }
  }

  async #answerSmall(request: Exclude<Request, OperationRequest>): Promise<Answer> {
    switch (request.kind) {
      case "hello":
        return strangerReason(this.#state, this.#visit.caller.peer) === null
          ? done(encodeHello(this.#state, 0))
          : refusal("not-allowed");
      case "open":
        await this.#verifyCaller(true);
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

  /** @throws AgentError `ERR_FOREIGN_SENDER` when it is not the process and program any more that connected */
  async #verifyCaller(isNow: boolean): Promise<void> {
    const { caller } = this.#visit;
    const peer = await (isNow ? caller.look() : caller.fresh());
    if (peer !== null) return;
    throw new AgentError("ERR_FOREIGN_SENDER", "peer", { expected: "who connected", got: "another" });
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
