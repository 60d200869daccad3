import { Worker } from "node:worker_threads";
import { ServiceError } from "./errors.ts";
import type { Judgement, JudgeOrder } from "./judge.ts";
import type { Outcome } from "./machine-state.ts";
import type { FromWorker, ToWorker } from "./worker.ts";

export interface PoolOptions {
  readonly workers: number;
  /** Orders that may wait for a worker. */
  readonly queue: number;
  readonly judgeSeconds: number;
  /** Told of each worker that was replaced. */
  readonly failed?: (kind: "timeout" | "crash") => void;
  /** Calls back when that time is over, unless what it returns was called before. Default: the system's timer. */
  readonly after?: (seconds: number, over: () => void) => () => void;
  /** The worker's file; tests put in one that crashes or hangs. */
  readonly program?: URL;
}

interface Job {
  readonly order: JudgeOrder;
  resolve(outcome: Outcome): void;
  reject(error: ServiceError): void;
}

/** One thread, and the order it works on. */
interface Seat {
  readonly worker: Worker;
  job: Job | null;
  cancel: (() => void) | null;
}

const restSeconds = 1;

/**
 * Threads that judge evidence, so that the thread that answers requests never does. One that takes too long or dies is replaced; its
 * order fails and is not tried again, because it may be what killed it.
 */
export class JudgePool {
  readonly #options: PoolOptions;
  readonly #seats = new Set<Seat>();
  readonly #waiting: Job[] = [];
  readonly #after: Exclude<PoolOptions["after"], undefined>;
  #judgement: Judgement;
  #closed: (() => void) | null = null;
  #next = 1;

  constructor(judgement: Judgement, options: PoolOptions) {
    this.#judgement = judgement;
    this.#options = options;
    this.#after = options.after ?? systemTimer;
    for (let at = 0; at < options.workers; at++) this.#seat();
  }

  /** Orders that wait or are worked on. */
  get depth(): number {
    return this.#waiting.length + [...this.#seats].filter(({ job }) => job !== null).length;
  }

  get workers(): number {
    return this.#seats.size;
  }

  /** For every order that is sent to a worker from now on. */
  replaceJudgement(judgement: Judgement): void {
    this.#judgement = judgement;
    for (const { worker } of this.#seats) send(worker, { kind: "judgement", judgement });
  }

  /** @throws ServiceError `ERR_WORKER_BUSY`, `ERR_WORKER_TIMEOUT`, `ERR_WORKER_FAILED`, `ERR_WORKER_CLOSED` */
  judge(order: JudgeOrder): Promise<Outcome> {
    if (this.#closed !== null) return Promise.reject(closedError());
    if (this.#waiting.length >= this.#options.queue) {
      const limits = { expected: `at most ${this.#options.queue} waiting`, got: "more" };
      return Promise.reject(new ServiceError("ERR_WORKER_BUSY", "queue", limits));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ order, resolve, reject });
      this.#assign();
    });
  }

  /** Lets what was begun or waits come to its end, then ends the threads. */
  async close(): Promise<void> {
    if (this.depth > 0) await new Promise<void>((resolve) => (this.#closed = resolve));
    this.#closed ??= () => undefined;
    const seats = [...this.#seats];
    this.#seats.clear(); // first: a thread that ends now is not to be replaced
    await Promise.all(seats.map(({ worker }) => worker.terminate()));
  }

  /** Gives up what is left, for a stop that cannot wait. */
  abort(): void {
    for (const job of this.#waiting.splice(0)) job.reject(closedError());
    for (const seat of this.#seats) this.#settle(seat)?.reject(closedError());
    this.#closed?.();
  }

  #seat(): void {
    const program = this.#options.program ?? new URL("./worker.ts", import.meta.url);
    // A bound of its own: evidence that makes a parser hoard memory ends this thread, not the service.
    const worker = new Worker(program, { resourceLimits: { maxOldGenerationSizeMb: 256 }, stdin: false, env: {} });
    const seat: Seat = { worker, job: null, cancel: null };
    worker.unref();
    worker.on("message", (message: FromWorker) => this.#receive(seat, message));
    worker.on("error", () => this.#replace(seat, "crash"));
    worker.on("exit", () => this.#replace(seat, "crash"));
    this.#seats.add(seat);
    send(worker, { kind: "judgement", judgement: this.#judgement });
  }

  #assign(): void {
    for (const seat of this.#seats) {
      if (seat.job !== null) continue;
      const job = this.#waiting.shift();
      if (job === undefined) break;
      seat.job = job;
      seat.cancel = this.#after(this.#options.judgeSeconds, () => this.#replace(seat, "timeout"));
      send(seat.worker, { kind: "order", id: this.#next++, order: job.order });
    }
    if (this.depth === 0) this.#closed?.();
  }

  #receive(seat: Seat, message: FromWorker): void {
    const job = this.#settle(seat);
    if (message.kind === "outcome") job?.resolve(message.outcome);
    else
      job?.reject(new ServiceError("ERR_WORKER_FAILED", "judging", { expected: "an outcome", got: message.message }));
    this.#assign();
  }

  #replace(seat: Seat, kind: "timeout" | "crash"): void {
    if (!this.#seats.delete(seat)) return;
    const idle = seat.job === null;
    const code = kind === "timeout" ? "ERR_WORKER_TIMEOUT" : "ERR_WORKER_FAILED";
    const got = kind === "timeout" ? "none in time" : "the end of its thread";
    this.#settle(seat)?.reject(new ServiceError(code, "judging", { expected: "an outcome", got }));
    void seat.worker.terminate();
    this.#options.failed?.(kind);
    // One that dies without work would die again at once: a program that cannot run must not spin.
    if (idle) setTimeout(() => this.#refill(), restSeconds * 1000).unref();
    else this.#refill();
  }

  #refill(): void {
    if (this.#closed === null || this.#waiting.length > 0) this.#seat();
    this.#assign();
  }

  #settle(seat: Seat): Job | null {
    const { job } = seat;
    seat.cancel?.();
    seat.job = null;
    seat.cancel = null;
    return job;
  }
}

function systemTimer(seconds: number, over: () => void): () => void {
  const timer = setTimeout(over, 1000 * seconds);
  return () => clearTimeout(timer);
}

function send(worker: Worker, message: ToWorker): void {
  worker.postMessage(message);
}

function closedError(): ServiceError {
  return new ServiceError("ERR_WORKER_CLOSED", "judging", { expected: "a running service", got: "one that stops" });
}
