// A judging thread that does what the machine's name or the first byte of the evidence says, in place of judging.
import { parentPort } from "node:worker_threads";
import type { ToWorker } from "../../attest/service/worker.ts";

parentPort?.on("message", (message: ToWorker) => {
  if (message.kind !== "order") return;
  const { id, order } = message;
  const hoard: unknown[] = [];
  const [, named] = /^hostile-(\d)/.exec(order.enrolment.name) ?? [];
  switch (named === undefined ? order.evidence[0] : Number(named)) {
    case 1:
      throw new Error("a parser that throws what nobody expects");
    case 2:
      process.exit(3);
      break;
    case 3:
      for (;;) if (Date.now() < 0) break;
      break;
    case 4:
      for (;;) hoard.push(new Array(100_000).fill(hoard.length));
    case 5:
      parentPort?.postMessage({ kind: "failed", id, message: "a fault of ours" });
      break;
    default:
      parentPort?.postMessage({ kind: "outcome", id, outcome: { kind: "refused", authentic: false, reasons: [] } });
  }
});
