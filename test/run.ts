// Runs every test and closes with one line of counts. Types and lint are tests like any other (test/tree.test.ts). The machines of `vm` are
// booted one after the other, beside the other projects, which a vitest of their own runs: a boot waits as often as it works. What those
// leave of the time is for the machines of `vm-more`.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { createInterface } from "node:readline";

interface TestFile {
  readonly name: string;
  readonly startTime: number;
  readonly endTime: number;
}

/** Vitest's report, as far as it is looked at. */
interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly numFailedTestSuites: number;
  readonly success: boolean;
  readonly testResults: readonly TestFile[];
}

/** A run that ended without a report: it counts as one failure. */
const NO_REPORT: Report = {
  ...{ numPassedTests: 0, numFailedTests: 1, numPendingTests: 0, numTodoTests: 0, numFailedTestSuites: 1 },
  ...{ success: false, testResults: [] },
};

const root = resolve(import.meta.dirname, "..");
/** Side by side, each of them one run after the other. */
const LANES = [[["fast", "parts"], ["vm-more"]], [["vm"]]] as const;
/** Where Node keeps what it compiled: the tests start the same programs hundreds of times, and to read their sources is half of what a short one does. */
const COMPILED = join(root, "build/cache/compiled");
/** So many files are named with the time that each took. */
const SLOWEST = 15;

interface Outcome {
  readonly code: number;
  readonly report: Report;
}

async function runVitest(projects: readonly string[], directory: string, filters: readonly string[]): Promise<Outcome> {
  const path = join(directory, `${projects.join("-")}.json`);
  const options = [
    ...["run", "--config", ".config/vitest.config.ts", "--passWithNoTests"],
    ...projects.flatMap((project) => ["--project", project]),
    ...["--reporter=default", "--reporter=json", `--outputFile.json=${path}`],
  ];
  const program = [join(root, "node_modules/vitest/vitest.mjs"), ...options, ...filters];
  const env = { ...process.env, NODE_COMPILE_CACHE: COMPILED };
  const child = spawn(process.execPath, program, { cwd: root, env, stdio: ["ignore", "pipe", "pipe"] });
  passLines(child.stdout, process.stdout);
  passLines(child.stderr, process.stderr);
  const [code] = await once(child, "close");
  return { code: code ?? 1, report: await readFile(path, "utf8").then(JSON.parse, () => NO_REPORT) };
}

/** Whole lines only: two runs write to one terminal. */
function passLines(from: NodeJS.ReadableStream, to: NodeJS.WritableStream): void {
  createInterface({ input: from }).on("line", (line) => to.write(`${line}\n`));
}

/** A file that cannot even be loaded has no tests to fail: it counts as one. */
function failuresIn({ numFailedTests, numFailedTestSuites, success }: Report): number {
  return numFailedTests === 0 && !success ? Math.max(1, numFailedTestSuites) : numFailedTests;
}

function slowest(files: readonly TestFile[]): readonly string[] {
  const timed = files.map(({ name, startTime, endTime }) => ({ name, seconds: (endTime - startTime) / 1000 }));
  const sorted = timed.sort((a, b) => b.seconds - a.seconds).slice(0, SLOWEST);
  return sorted.map(({ name, seconds }) => `${seconds.toFixed(1).padStart(8)} s  ${relative(root, name)}`);
}

async function runLane(
  runs: readonly (readonly string[])[],
  directory: string,
  filters: readonly string[],
): Promise<readonly Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const projects of runs) outcomes.push(await runVitest(projects, directory, filters));
  return outcomes;
}

async function main(filters: readonly string[]): Promise<number> {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-test-"));
  try {
    const lanes = await Promise.all(LANES.map((runs) => runLane(runs, directory, filters)));
    const outcomes = lanes.flat();
    const reports = outcomes.map(({ report }) => report);
    const sum = (of: (report: Report) => number) => reports.reduce((total, report) => total + of(report), 0);
    const [passed, failed] = [sum(({ numPassedTests }) => numPassedTests), sum(failuresIn)];
    const skipped = sum(({ numPendingTests, numTodoTests }) => numPendingTests + numTodoTests);
    console.log(["slowest files:", ...slowest(reports.flatMap(({ testResults }) => testResults))].join("\n"));
    console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
    return failed > 0 || passed === 0 ? 1 : Math.max(...outcomes.map(({ code }) => code));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

process.exitCode = await main(process.argv.slice(2));
