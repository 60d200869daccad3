// One of the threads that judge evidence: logs and claims are parsed here, not where the sockets and the signing key are.
import { parentPort } from "node:worker_threads";
import { type Judgement, type JudgeOrder, judge } from "./judge.ts";
import type { Outcome } from "./machine-state.ts";
import { RememberedLogs } from "./remembered-logs.ts";

export type ToWorker =
  | { readonly kind: "judgement"; readonly judgement: Judgement }
  | { readonly kind: "order"; readonly id: number; readonly order: JudgeOrder };

export type FromWorker =
  | { readonly kind: "outcome"; readonly id: number; readonly outcome: Outcome }
  | { readonly kind: "failed"; readonly id: number; readonly message: string };

let present: { readonly judgement: Judgement; readonly logs: RememberedLogs } | null = null;

parentPort?.on("message", async (message: ToWorker) => {
  if (message.kind === "judgement") {
    const { judgement } = message;
    present = { judgement, logs: new RememberedLogs(judgement.references) };
    return;
  }
  const { id, order } = message;
  try {
    if (present === null) throw new TypeError("no policy was set");
    answer({ kind: "outcome", id, outcome: await judge(order, present.judgement, present.logs) });
  } catch (error) {
    answer({ kind: "failed", id, message: error instanceof Error ? error.message.slice(0, 500) : "unknown failure" });
  }
});

function answer(message: FromWorker): void {
  parentPort?.postMessage(message);
}
