// The thread that writes the verifier's store. What came while it waited for the disk goes into the next transaction, all of it together.
import { parentPort, receiveMessageOnPort, workerData } from "node:worker_threads";
import { ServiceError } from "./errors.ts";
import { openSqliteStore, type SqliteStore } from "./sqlite-store.ts";
import type { Retention } from "./store.ts";

/** The calls that write. */
export type WriteName = "enrol" | "changeRows" | "noteRejected" | "retire" | "addToken" | "takeToken" | "prune";

export interface WriterData {
  readonly path: string;
  readonly retention: Retention;
}

export interface WriteOrder {
  readonly id: number;
  readonly name: WriteName;
  readonly given: Parameters<SqliteStore[WriteName]>;
}

export type WriteAnswer =
  | { readonly id: number; readonly kind: "written"; readonly value: unknown }
  | { readonly id: number; readonly kind: "failed"; readonly got: string };

/** In one transaction: a bound on how long the first of them waits for the others. */
const maxTogether = 64;

/** `null` ends the thread, behind all that came before it. */
type Message = WriteOrder | null;

if (parentPort !== null) serve(parentPort, workerData as WriterData);

function serve(port: NonNullable<typeof parentPort>, { path, retention }: WriterData): void {
  const store = openSqliteStore(path, retention);
  port.on("message", async (first: Message) => {
    const waiting = [first, ...received(port, maxTogether - 1)];
    const orders = waiting.filter((message) => message !== null);
    if (orders.length > 0) port.postMessage(await write(store, orders));
    if (orders.length === waiting.length) return;
    await store.close();
    port.close();
  });
}

function received(port: NonNullable<typeof parentPort>, most: number): readonly Message[] {
  const messages: Message[] = [];
  while (messages.length < most) {
    const next = receiveMessageOnPort(port);
    if (next === undefined) break;
    messages.push(next.message as Message);
  }
  return messages;
}

async function write(store: SqliteStore, orders: readonly WriteOrder[]): Promise<readonly WriteAnswer[]> {
  try {
    const outcomes = await store.together(orders.map((order) => () => call(store, order)));
    return outcomes.map((outcome, index) => {
      const id = orders[index]?.id ?? 0;
      return outcome.status === "fulfilled"
        ? { id, kind: "written", value: outcome.value }
        : { id, kind: "failed", got: textOf(outcome.reason) };
    });
  } catch (error) {
    return orders.map(({ id }) => ({ id, kind: "failed", got: textOf(error) }));
  }
}

function call(store: SqliteStore, { name, given }: WriteOrder): Promise<unknown> {
  const method = store[name] as (...values: WriteOrder["given"]) => Promise<unknown>; // the order's values are its parameters
  return method.apply(store, given);
}

/** What SQLite said, or what it was instead. */
function textOf(error: unknown): string {
  if (error instanceof ServiceError) return error.got ?? error.message;
  return error instanceof Error ? error.message.slice(0, 200) : "a failure";
}
