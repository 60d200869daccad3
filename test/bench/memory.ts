import { execFile } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { bundleProgram } from "../../vm-images/bundle.ts";
import type { LeakFigures } from "../endurance/tpm-leak.ts";
import { memoryFindings, toldOf } from "../soak/memory.ts";
import type { LabHeld } from "../support/lab-broker.ts";
import { childrenOf } from "../support/process-tree.ts";
import { openServiceBench } from "../support/service-fixture.ts";
import { NATIVE_DIRECTORY } from "../support/shim-fixture.ts";
import { type BenchOptions, median, type Row, type Suite, timeRow } from "./bench.ts";
import { openSignBench, type SignBench } from "./sign.ts";
import { shimPidOf } from "./what-is-on.ts";

const run = promisify(execFile);
const AGENT = resolve(import.meta.dirname, "../../agent/main.ts");
const LEAKS = resolve(import.meta.dirname, "../endurance/tpm-leak.ts");
/** Of a whole run, and what is used of it by default for each iteration. */
const FULL = { operations: 1_000_000, quotes: 100_000 };
const EACH = { operations: 2500, quotes: 25 };
/** How often agent and shim are looked at meanwhile, and the signatures in a millisecond by which a look's time is planned. */
const LOOKS = 20;
const PER_MILLISECOND = 10;
const MIB = 1 << 20;
/** Growth of a shim's resident memory over the last half of the operations that is no finding, in MiB. */
const SHIM_GROWTH = 1;
const TARGET = { "memory-agent": 110, "memory-shim": 12 } as const;

/** `memory-agent`, `memory-shim`: what is resident after a launch, and whether it stays so over many operations and quotes. */
export const memorySuite: Suite = {
  ids: Object.keys(TARGET),
  run: async (wanted, options) => {
    const launched = await residentAfterLaunch(Math.ceil(options.iterations / 16));
    const lasting = await lookWhileSigning(options);
    const rows: Row[] = [];
    if (wanted.has("memory-agent")) rows.push(await agentRow(launched.agent, lasting, options));
    if (wanted.has("memory-shim")) rows.push(shimRow(launched.shim, lasting));
    return rows;
  },
};

interface Resident {
  readonly agent: number;
  readonly shim: number;
}

/** Of the agent and its one shim, in MiB: medians of so many launches. */
async function residentAfterLaunch(launches: number): Promise<Resident> {
  await using service = await openServiceBench();
  const program = await bundleInto(service.bench.directory);
  const found: Resident[] = [];
  for (let launch = 0; launch < launches; launch++) {
    const agent = await service.start({ program });
    const { state, reasons } = await agent.launched();
    if (state !== "serving") throw new Error(`launch: ${JSON.stringify(reasons)}`);
    const [pid = 0] = childrenOf(agent.pid);
    const [shim = 0] = agent.shimPids();
    found.push({ agent: residentMib(pid), shim: residentMib(shim) });
    await agent.stop();
  }
  return { agent: median(found.map(({ agent }) => agent)), shim: median(found.map(({ shim }) => shim)) };
}

/** The agent as an image has it: one file, beside the add-ons. Node run from the sources holds its compiler for them as well. */
async function bundleInto(directory: string): Promise<string> {
  const place = join(directory, "bundle");
  const addons = readdirSync(NATIVE_DIRECTORY).filter((name) => name.endsWith(".node"));
  mkdirSync(place);
  for (const name of addons) copyFileSync(join(NATIVE_DIRECTORY, name), join(place, name));
  writeFileSync(join(place, "agent.cjs"), await bundleProgram(AGENT));
  return join(place, "agent.cjs");
}

interface Lasting {
  readonly operations: number;
  readonly agent: readonly LabHeld[];
  /** Resident MiB. */
  readonly shim: readonly number[];
}

/** Signs by both doors in turn; between two turns nothing is under way, and both are looked at. */
async function lookWhileSigning({ iterations, full }: BenchOptions): Promise<Lasting> {
  await using bench = await openSignBench();
  const wanted = full ? FULL.operations : Math.min(FULL.operations, EACH.operations * iterations);
  const turn = wanted / LOOKS / PER_MILLISECOND;
  const agent: LabHeld[] = [];
  const shim: number[] = [];
  const pid = shimPidOf(bench.served);
  let operations = 0;
  while (operations < wanted) {
    operations += await signFor(bench, agent.length % 2 === 0 ? "native" : "broker", turn);
    agent.push(await bench.served.lab.ask("held"));
    shim.push(residentMib(pid));
  }
  return { operations, agent, shim };
}

async function signFor({ arms }: SignBench, door: "native" | "broker", milliseconds: number): Promise<number> {
  const { operations } = await arms[door]({ key: "ec", clients: 8 }, milliseconds);
  return operations;
}

async function agentRow(launched: number, lasting: Lasting, { iterations, full }: BenchOptions): Promise<Row> {
  const told = toldOf(lasting.agent, { before: 0, after: 0 });
  const quotes = full ? FULL.quotes : Math.min(FULL.quotes, EACH.quotes * iterations);
  const { figures, clean } = await quoteOften(quotes);
  const over = `${lasting.operations} operations: heap ${told.heap.middle} MiB in the middle, ${told.heap.end} at the end, resident ${told.resident.middle} and ${told.resident.end}`;
  const what = `resident after a launch, in MiB (${over}; over ${quotes} quotes resident memory grew by ${figures.rssGrowthMiB} MiB)`;
  return rowOf("memory-agent", what, launched, clean && memoryFindings(told).length === 0);
}

function shimRow(launched: number, { operations, shim }: Lasting): Row {
  const half = shim.slice(Math.floor(shim.length / 2));
  const [middle, end] = [half[0] ?? Number.NaN, half.at(-1) ?? Number.NaN];
  const what = `resident after a launch, in MiB (${operations} operations: ${mib(middle)} MiB in the middle, ${mib(end)} at the end)`;
  return rowOf("memory-shim", what, launched, end - middle <= SHIM_GROWTH);
}

/** The peer is one MiB, so that the target is one of memory. What grows misses it, however small it is. */
function rowOf(id: keyof typeof TARGET, what: string, ours: number, flat: boolean): Row {
  const row = timeRow({ id, what, target: TARGET[id] }, { ours, peer: 1 });
  return { ...row, unit: "MiB", ok: row.ok && flat };
}

/** In a process of its own: what this one holds from other rows is no part of it. */
async function quoteOften(quotes: number): Promise<{ readonly figures: LeakFigures; readonly clean: boolean }> {
  const done = (stdout: string, clean: boolean) => ({ figures: JSON.parse(stdout) as LeakFigures, clean });
  return run(process.execPath, [LEAKS, `${quotes}`, "10"]).then(
    ({ stdout }) => done(stdout, true),
    (error: { readonly stdout: string }) => done(error.stdout, false),
  );
}

/** VmRSS of proc_pid_status(5). */
function residentMib(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1];
  if (kib === undefined) throw new Error(`process ${pid} is gone`);
  return (Number(kib) * 1024) / MIB;
}

const mib = (value: number) => Math.round(10 * value) / 10;
