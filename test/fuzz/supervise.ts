import { fork } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Target } from "./catalogue.ts";
import type { Assignment, Message } from "./child.ts";
import type { Budget, Finding, LoopResult } from "./loop.ts";
import { replaceRange } from "./mutate.ts";
import { processorTime, runningInput } from "./watch.ts";

export interface FuzzOptions {
  readonly seed: number;
  readonly budget: Budget;
  readonly corpus: readonly Uint8Array[];
  /** Run behind the mutations, once each. */
  readonly once?: readonly Uint8Array[];
  /** Milliseconds of the processor that one input may take. */
  readonly timeLimit: number;
}

export interface Report extends LoopResult {
  readonly findings: readonly Finding[];
  /** Inputs that reached something new; those of the corpus that did are among them. */
  readonly kept: readonly Uint8Array[];
  readonly milliseconds: number;
}

/** Inputs that end a process are slow to find: a target with so many is done. */
const maxFatal = 3;
const maxHeap = 512;
/** How often a run is looked at before it may be over its limit, and how often at most, by a watcher that gets no more time than it does. */
const looksPerLimit = 8;
const maxLooks = 12 * looksPerLimit;
/** Processes started to make such an input smaller. */
const fatalTries = 16;

/** Fuzzes one target. A process that hangs or runs out of memory is a finding, and the next one goes on with what it had reached. */
export async function fuzzTarget(target: Target, options: FuzzOptions): Promise<Report> {
  const { budget, timeLimit } = options;
  const start = performance.now();
  const findings: Finding[] = [];
  const kept: Uint8Array[] = [];
  let { corpus, once = [] } = options;
  let runs = 0;
  for (let fatal = 0; ; fatal++) {
    const elapsed = performance.now() - start;
    const assignment = {
      target,
      seed: options.seed + fatal,
      budget: { runs: Math.max(0, budget.runs - runs), milliseconds: Math.max(0, budget.milliseconds - elapsed) },
      corpus: [...corpus, ...kept],
      once,
    };
    const end = await runChild(assignment, timeLimit, (message) => {
      if (message.kind === "kept") kept.push(message.input);
      if (message.kind === "found") findings.push(message.finding);
    });
    runs += end.runs;
    const milliseconds = performance.now() - start;
    if (end.kind === "done") return { ...end.result, runs, findings, kept, milliseconds };
    const others = (inputs: readonly Uint8Array[]) =>
      inputs.filter((input) => Buffer.compare(input, end.finding.input) !== 0);
    [corpus, once] = [others(corpus), others(once)];
    if (!findings.some(({ what }) => what === end.finding.what))
      findings.push(await smallest(assignment, timeLimit, end.finding));
    if (fatal + 1 === maxFatal) return { runs, accepted: 0, coverage: 0, findings, kept, milliseconds };
  }
}

type End =
  | { readonly kind: "done"; readonly runs: number; readonly result: LoopResult }
  | { readonly kind: "fatal"; readonly runs: number; readonly finding: Finding };

async function runChild(
  { target, ...assignment }: Omit<Assignment, "running">,
  timeLimit: number,
  receive: (message: Message) => void,
): Promise<End> {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-fuzz-"));
  const running = join(directory, "running");
  const child = fork(join(import.meta.dirname, "child.ts"), {
    execArgv: [`--max-old-space-size=${maxHeap}`, "--no-warnings"],
    serialization: "advanced",
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  let stderr = "";
  child.stderr?.on("data", (text) => {
    stderr = `${stderr}${text}`.slice(-4000);
  });
  const { promise, resolve, reject } = Promise.withResolvers<End>();
  const fatal = (what: string, detail: string) => {
    const run = runningInput(running);
    if (run === null) reject(new Error(`fuzz process of ${target.name}: ${detail}\n${stderr}`));
    else resolve({ kind: "fatal", runs: run.number, finding: { what, detail, input: run.input } });
  };
  let since = { number: 0, used: 0, looks: 0 };
  const look = () => {
    const number = runningInput(running)?.number ?? 0;
    const used = processorTime(child.pid ?? 0);
    if (number !== since.number || number === 0) since = { number, used, looks: 0 };
    since.looks += 1;
    // A machine that has other things to do is no finding, and a run that waits for nothing uses no processor.
    if (used - since.used > timeLimit) fatal("time limit", `one run took more than ${timeLimit} ms of the processor`);
    else if (since.looks > maxLooks) fatal("time limit", "one run does not end");
  };
  const watch = setInterval(look, timeLimit / looksPerLimit);
  child.on("message", (message: Message) => {
    if (message.kind === "done") resolve({ kind: "done", runs: message.result.runs, result: message.result });
    else receive(message);
  });
  child.on("error", reject);
  child.on("exit", (code, signal) => {
    if (/heap out of memory/.test(stderr)) fatal("memory limit", `one run needed more than ${maxHeap} MiB`);
    else fatal(`process ended: ${signal ?? code}`, stderr);
  });
  child.send({ target, ...assignment, running });
  try {
    return await promise;
  } finally {
    clearInterval(watch);
    child.kill("SIGKILL");
    await rm(directory, { recursive: true });
  }
}

/** Cuts pieces out while a process of its own still ends on what is left. */
async function smallest(
  assignment: Omit<Assignment, "running">,
  timeLimit: number,
  finding: Finding,
): Promise<Finding> {
  let { input } = finding;
  let left = fatalTries;
  for (let size = Math.ceil(input.length / 2); size >= 1 && left > 0; size = Math.floor(size / 2)) {
    for (let at = 0; at < input.length && left > 0; left--) {
      const candidate = replaceRange(input, at, size, new Uint8Array());
      const replay = { ...assignment, budget: { runs: 0, milliseconds: 0 }, corpus: [candidate], once: [] };
      const end = await runChild(replay, timeLimit, () => {});
      if (end.kind === "fatal" && end.finding.what === finding.what) input = candidate;
      else at += size;
    }
  }
  return { ...finding, input };
}
