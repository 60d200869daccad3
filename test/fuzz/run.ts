// npm run fuzz -- [--minutes N] [--each] [--jobs N] [--seed N] [--only NAME,...] [--corpus DIR] [--json]
import { availableParallelism } from "node:os";
import { relative } from "node:path";
import { parseArgs } from "node:util";
import { listTargets, readCorpus, readInputs, root, type Target, writeInput } from "./catalogue.ts";
import { Schedule } from "./schedule.ts";
import { fuzzTarget, type Report } from "./supervise.ts";

const usage =
  "usage: npm run fuzz -- [--minutes N] [--each] [--jobs N] [--seed N] [--only NAME,...] [--corpus DIR] [--json]";
const FINDINGS = "test/fuzz/findings";

interface Options {
  readonly minutes: number;
  /** Every target has all the minutes, instead of its share of them. */
  readonly each: boolean;
  /** Targets at once. */
  readonly jobs: number;
  readonly seed: number;
  readonly targets: readonly Target[];
  /** Where the inputs are that earlier runs kept, and where this one puts its own. */
  readonly corpus: string | null;
  readonly json: boolean;
}

function readOptions(args: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...args],
    options: {
      minutes: { type: "string", default: "10" },
      each: { type: "boolean", default: false },
      jobs: { type: "string", default: `${availableParallelism()}` },
      seed: { type: "string", default: "1" },
      only: { type: "string" },
      corpus: { type: "string" },
      json: { type: "boolean", default: false },
    },
  });
  const { each, json, corpus = null } = values;
  const [minutes, jobs, seed] = [Number(values.minutes), Number(values.jobs), Number(values.seed)];
  if (!(minutes > 0 && Number.isFinite(minutes)))
    throw new TypeError(`--minutes: expected a number above 0, got ${values.minutes}`);
  if (!(Number.isSafeInteger(jobs) && jobs > 0))
    throw new TypeError(`--jobs: expected a whole number above 0, got ${values.jobs}`);
  if (!Number.isSafeInteger(seed)) throw new TypeError(`--seed: expected an integer, got ${values.seed}`);
  return { minutes, each, jobs, seed, targets: namedTargets(values.only), corpus, json };
}

function namedTargets(only: string | undefined): readonly Target[] {
  const all = listTargets();
  const names = only?.split(",") ?? all.map(({ name }) => name);
  return names.map((name) => {
    const target = all.find((candidate) => candidate.name === name);
    if (target === undefined)
      throw new TypeError(`--only: no target ${name}; there are ${all.map((each) => each.name).join(", ")}`);
    return target;
  });
}

/** What is known of a target when its time is over: `crashes` counts its findings. */
interface Outcome {
  readonly name: string;
  readonly runs: number;
  readonly coverage: number;
  readonly crashes: number;
  readonly findings: readonly { readonly what: string; readonly input: string; readonly detail: string }[];
}

async function fuzzOne(target: Target, milliseconds: number, { seed, corpus }: Options): Promise<[Outcome, string]> {
  const kept = corpus === null ? [] : readInputs(corpus, target.name);
  const budget = { runs: Number.POSITIVE_INFINITY, milliseconds };
  const known = [...readCorpus(target.name), ...kept];
  const report = await fuzzTarget(target, { seed, budget, corpus: known, timeLimit: 5000 });
  for (const input of corpus === null ? [] : report.kept) writeInput(corpus ?? "", target.name, input);
  const findings = report.findings.map(({ what, detail, input }) => {
    const path = writeInput(FINDINGS, target.name, input, `${what}\n\n${detail}\n`);
    return { what, input: relative(root, path), detail };
  });
  const { runs, coverage } = report;
  return [{ name: target.name, runs, coverage, crashes: findings.length, findings }, describe(target, report)];
}

function describe(target: Target, report: Report): string {
  const perSecond = Math.round((1000 * report.runs) / report.milliseconds);
  const found = report.findings.length === 0 ? "no finding" : `${report.findings.length} FINDINGS`;
  return `${target.name.padEnd(20)} ${report.runs} runs, ${perSecond} a second, ${report.coverage} places, ${found}`;
}

/** As many targets at once as there are jobs; each line is printed as soon as its target is done. */
async function fuzzAll(options: Options): Promise<readonly Outcome[]> {
  const { targets, minutes, each, jobs, json } = options;
  const schedule = new Schedule(targets, { milliseconds: minutes * 60_000, jobs, each });
  const outcomes = new Map<Target, Outcome>();
  const work = async () => {
    for (let next = schedule.next(); next !== null; next = schedule.next()) {
      const [outcome, line] = await fuzzOne(next.target, next.milliseconds, options);
      outcomes.set(next.target, outcome);
      if (json) continue;
      console.log(line);
      for (const { what, input, detail } of outcome.findings)
        console.log(`  ${what}\n  input: ${input}\n${detail.replaceAll(/^/gm, "    ")}`);
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
  return targets.flatMap((target) => outcomes.get(target) ?? []);
}

async function main(args: readonly string[]): Promise<number> {
  if (args.includes("--help")) {
    console.log(usage);
    return 0;
  }
  const options = readOptions(args);
  const outcomes = await fuzzAll(options);
  const crashes = outcomes.reduce((sum, outcome) => sum + outcome.crashes, 0);
  if (options.json) console.log(JSON.stringify({ targets: outcomes }));
  else console.log(`${outcomes.length} targets, ${crashes} crashes`);
  return crashes > 0 ? 1 : 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof TypeError)) throw error;
  console.error(`${error.message}\n${usage}`);
  process.exitCode = 2;
}
