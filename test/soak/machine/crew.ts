import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { callerCommand } from "../../bench/served.ts";
import type { Order, Word } from "./clients.ts";

export interface Rest {
  readonly operations: number;
  readonly dropped: number;
}

/** The workloads, in a process of their own. */
export interface Crew extends AsyncDisposable {
  /** Resolves when every workload has had an operation that it began after this was called. */
  prove(): Promise<void>;
  /** Resolves when they have closed everything, with what they have done so far. @param leave one connection stays open */
  rest(leave?: boolean): Promise<Rest>;
  resume(): void;
}

export async function startCrew(
  order: Omit<Order & { readonly kind: "begin" }, "kind">,
  heard: (word: Word & { readonly kind: "failed" | "wrong" }) => void,
): Promise<Crew> {
  const command = callerCommand(process.execPath, [join(import.meta.dirname, "clients.ts")]);
  const child = spawn(...command, { cwd: "/", stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const gone = once(child, "exit").then(([code]) => Promise.reject(new Error(`the workloads ended with ${code}`)));
  gone.catch(() => undefined);
  const proofs = new Map<number, () => void>();
  let resting: (rest: Rest) => void = () => undefined;
  let next = 0;
  child.on("message", (word: Word) => {
    if (word.kind === "proved") proofs.get(word.id)?.();
    else if (word.kind === "resting") resting(word);
    else heard(word);
  });
  const send = (word: Order) => void child.send(word);
  send({ kind: "begin", ...order });
  return {
    prove: () => {
      next += 1;
      const proved = new Promise<void>((resolve) => proofs.set(next, resolve));
      send({ kind: "prove", id: next });
      return Promise.race([proved, gone]);
    },
    rest: (leave = false) => {
      const rested = new Promise<Rest>((resolve) => {
        resting = resolve;
      });
      send({ kind: "rest", leave });
      return Promise.race([rested, gone]);
    },
    resume: () => send({ kind: "resume" }),
    [Symbol.asyncDispose]: async () => {
      if (child.exitCode !== null) return;
      child.disconnect();
      await gone.catch(() => undefined);
    },
  };
}
