import { Coverage } from "./coverage.ts";
import { minimise } from "./minimise.ts";
import { mutate } from "./mutate.ts";
import { type Random, seededRandom } from "./random.ts";
import type { Run, Subject } from "./subject.ts";

export interface Finding {
  /** Without anything of the input: the same for every input that shows it. */
  readonly what: string;
  readonly detail: string;
  readonly input: Uint8Array;
}

export interface Budget {
  /** Mutated inputs at most. */
  readonly runs: number;
  readonly milliseconds: number;
}

export interface LoopOptions {
  readonly seed: number;
  readonly budget: Budget;
  readonly corpus: readonly Uint8Array[];
  /** Run once each, and mutated never: inputs that are too long for that. */
  readonly once: readonly Uint8Array[];
  /** Called for an input that reached something new. */
  readonly kept: (input: Uint8Array) => void;
  /** Called once for each kind of finding, with its smallest input. */
  readonly found: (finding: Finding) => void;
}

export interface LoopResult {
  readonly runs: number;
  /** Inputs of the corpus that the target took. */
  readonly accepted: number;
  readonly coverage: number;
}

/** A driver that was ended so often is not searched further: each end costs a new process, and a bug so near hides others. */
const maxEnded = 20;

/** An empty input, so that a target without a corpus has something to start from. */
const nothing = new Uint8Array();

/** Runs the corpus, then mutations of it and of whatever reached something new, until the budget is used up. */
export async function fuzz(subject: Subject, options: LoopOptions): Promise<LoopResult> {
  const { seed, budget, corpus, once, kept, found } = options;
  const random = seededRandom(seed);
  const coverage = new Coverage();
  const known = new Set<string>();
  const pool: Uint8Array[] = [];
  let [runs, accepted, ended] = [0, 0, 0];

  let mutable = true;
  const look = ({ input, outcome, counters }: Run): Finding | null => {
    runs++;
    if (outcome.kind === "finding") return { what: outcome.what, detail: outcome.detail, input };
    if (mutable && coverage.learn(counters)) {
      pool.push(input);
      kept(input);
    }
    return null;
  };
  const runAll = async (inputs: readonly Uint8Array[]): Promise<number> => {
    const findings: Finding[] = [];
    let taken = 0;
    await subject.run(inputs, (run) => {
      const finding = look(run);
      if (finding !== null) findings.push(finding);
      if (run.outcome.kind === "accepted") taken++;
    });
    if (subject.batch > 1) ended += findings.length;
    for (const finding of findings) {
      if (known.has(finding.what)) continue;
      known.add(finding.what);
      found({ ...finding, input: await minimise(subject, finding) });
    }
    return taken;
  };

  // One by one: what stands behind an input that ends a native driver is run as well.
  await runAll([nothing]);
  for (const input of corpus) accepted += await runAll([input]);
  const end = performance.now() + budget.milliseconds;
  const last = runs + budget.runs;
  while (runs < last && performance.now() < end && ended < maxEnded) {
    for (let left = Math.max(1, 64 / subject.batch); left > 0 && runs < last; left--) {
      const size = Math.min(subject.batch, last - runs);
      await runAll(Array.from({ length: size }, () => nextInput(pool, random, subject)));
    }
  }
  mutable = false;
  for (const input of once) await runAll([input]);
  return { runs, accepted, coverage: coverage.reached };
}

/** Every third input comes from the newest quarter of the pool: what was just reached leads on. */
function nextInput(pool: readonly Uint8Array[], random: Random, { dictionary, maxLength }: Subject): Uint8Array {
  if (pool.length === 0) return mutate(nothing, { random, dictionary, corpus: [nothing], maxLength });
  const newest = random.below(3) === 0 ? Math.ceil(pool.length / 4) : pool.length;
  const input = pool[pool.length - 1 - random.below(newest)] ?? nothing;
  return mutate(input, { random, dictionary, corpus: pool, maxLength });
}
