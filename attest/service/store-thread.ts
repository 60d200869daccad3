import { Worker } from "node:worker_threads";
import { ServiceError } from "./errors.ts";
import { rowsOf } from "./sqlite-rows.ts";
import { openSqliteStore, type SqliteStore } from "./sqlite-store.ts";
import type { Retention, VerifierStore } from "./store.ts";
import type { WriteAnswer, WriteName, WriteOrder, WriterData } from "./store-worker.ts";

interface Waiting {
  resolve(value: unknown): void;
  reject(error: ServiceError): void;
}

/**
 * The store of one node, an SQLite file, that reads in this thread and writes in another: a write waits for the disk, which takes longer than
 * all else that is done for a report, and what came meanwhile is written together behind it.
 * @param program the thread's; tests put in one that ends
 * @throws ServiceError `ERR_SERVICE_STORE`
 */
export function openStore(path: string, retention: Retention, program?: URL): VerifierStore {
  const readable = openSqliteStore(path, retention);
  const writer = new Writer({ path, retention }, program ?? new URL("./store-worker.ts", import.meta.url));
  const write =
    <Name extends WriteName>(name: Name) =>
    (...given: Parameters<SqliteStore[Name]>): ReturnType<SqliteStore[Name]> =>
      writer.write(name, given) as ReturnType<SqliteStore[Name]>; // the same method of the store over there
  const changeRows = write("changeRows");
  return {
    machines: () => readable.machines(),
    machine: (name) => readable.machine(name),
    quietSince: (at) => readable.quietSince(at),
    census: () => readable.census(),
    events: (machine) => readable.events(machine),
    reports: (machine) => readable.reports(machine),
    report: (machine, id) => readable.report(machine, id),
    sameReport: (machine, evidence) => readable.sameReport(machine, evidence),
    enrol: write("enrol"),
    change: (machine, change) => changeRows({ id: machine.id, revision: machine.revision }, rowsOf(change)),
    noteRejected: write("noteRejected"),
    retire: write("retire"),
    addToken: write("addToken"),
    takeToken: write("takeToken"),
    prune: write("prune"),
    check: async () => {
      writer.check();
      await readable.check();
    },
    close: async () => {
      await writer.close();
      await readable.close();
    },
  };
}

/** A thread that ends by itself is not replaced: nobody knows what it has written, and a store that cannot write says so. */
class Writer {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  readonly #ended: Promise<void>;
  #next = 1;
  #open = true;

  constructor(data: WriterData, program: URL) {
    this.#worker = new Worker(program, {
      workerData: data,
      stdin: false,
      env: {},
    });
    this.#worker.unref();
    this.#worker.on("message", (answers: readonly WriteAnswer[]) => this.#receive(answers));
    this.#worker.on("error", () => this.#fail());
    this.#ended = new Promise((resolve) => {
      this.#worker.on("exit", () => {
        this.#fail();
        resolve();
      });
    });
  }

  /** @throws ServiceError `ERR_SERVICE_STORE` once the thread has ended */
  check(): void {
    if (!this.#open) throw failure("the end of its thread");
  }

  async write(name: WriteName, given: WriteOrder["given"]): Promise<unknown> {
    this.check();
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.ref(); // a process does not end before what it has begun to write
      this.#worker.postMessage({ id, name, given } satisfies WriteOrder);
    });
  }

  /** Behind everything that was given before. */
  async close(): Promise<void> {
    if (this.#open) {
      this.#open = false;
      this.#worker.ref();
      this.#worker.postMessage(null);
    }
    await this.#ended;
  }

  #receive(answers: readonly WriteAnswer[]): void {
    for (const answer of answers) {
      const waiting = this.#waiting.get(answer.id);
      this.#waiting.delete(answer.id);
      if (answer.kind === "written") waiting?.resolve(answer.value);
      else waiting?.reject(failure(answer.got));
    }
    if (this.#waiting.size === 0 && this.#open) this.#worker.unref();
  }

  #fail(): void {
    this.#open = false;
    for (const { reject } of this.#waiting.values()) reject(failure("the end of its thread"));
    this.#waiting.clear();
  }
}

function failure(got: string): ServiceError {
  return new ServiceError("ERR_SERVICE_STORE", "store", { expected: "one that reads and writes", got });
}
