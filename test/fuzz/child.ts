// One target in a process of its own, so that an input that hangs or eats all memory ends only this process.
import type { Target } from "./catalogue.ts";
import { openJavaScript } from "./javascript.ts";
import { type Budget, type Finding, fuzz, type LoopResult } from "./loop.ts";
import { openNative } from "./native.ts";
import { announcer } from "./watch.ts";

export interface Assignment {
  readonly target: Target;
  readonly seed: number;
  readonly budget: Budget;
  readonly corpus: readonly Uint8Array[];
  readonly once: readonly Uint8Array[];
  /** File for the input that is being run. */
  readonly running: string;
}

export type Message =
  | { readonly kind: "kept"; readonly input: Uint8Array }
  | { readonly kind: "found"; readonly finding: Finding }
  | { readonly kind: "done"; readonly result: LoopResult };

function send(message: Message): void {
  process.send?.(message);
}

// Listening for ever keeps the channel open until the watcher ends this process: one that ended by itself could be seen gone before its
// last message is read.
process.on("message", async ({ target, seed, budget, corpus, once, running }: Assignment) => {
  const subject = await (target.kind === "native"
    ? openNative(target)
    : openJavaScript(target.path, announcer(running)));
  const result = await fuzz(subject, {
    seed,
    budget,
    corpus,
    once,
    kept: (input) => send({ kind: "kept", input }),
    found: (finding) => send({ kind: "found", finding }),
  });
  send({ kind: "done", result });
});
