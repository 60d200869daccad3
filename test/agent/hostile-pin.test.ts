import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { scanFiles, totalCount } from "../../vm-images/pin-scan.ts";
import { changeModule } from "../support/launch-documents.ts";
import { LAUNCH_PIN } from "../support/launch-fixture.ts";
import { countInMemory, makeFault } from "../support/process-memory.ts";
import { type Agent, openServiceBench, type ServiceBench } from "../support/service-fixture.ts";
import { type BusCommand, TPM_CC } from "../support/tpm-bus.ts";

const root = resolve(import.meta.dirname, "../..");
const isRoot = process.getuid?.() === 0;

let service: ServiceBench;
beforeAll(async () => {
  // were cores made, they would lie where this process is, or in a root directory
  if (isRoot) execFileSync("prlimit", ["--pid", `${process.pid}`, "--core=unlimited"]);
  service = await openServiceBench();
});
afterAll(() => service[Symbol.asyncDispose]());
afterEach(() => service.stopAll());

/** A process of the machine, by the name of its program. */
interface Part {
  readonly pid: number;
  readonly name: string;
  /** Since the kernel's boot, in ticks: another process that got this number meanwhile has another one. */
  readonly started: string;
  /** Soft and hard. */
  readonly coreLimit: string;
}

function readProcess(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return ""; // it has ended
  }
}

/** State and what follows: the name before it may hold anything. */
const statOf = (pid: number) => (readProcess(pid, "stat").split(") ").at(-1) ?? "").split(" ");

function partsFrom(pid: number): readonly Part[] {
  const name = nameOf(pid);
  const coreLimit = /^Max core file size +(\S+ +\S+)/m.exec(readProcess(pid, "limits"))?.[1] ?? "";
  const children = readProcess(pid, `task/${pid}/children`).split(" ");
  return [
    { pid, name, started: statOf(pid)[19] ?? "", coreLimit: coreLimit.replace(/ +/, " ") },
    ...children.filter((word) => word !== "").flatMap((child) => partsFrom(Number(child))),
  ];
}

function nameOf(pid: number): string {
  try {
    return basename(readlinkSync(`/proc/${pid}/exe`)).replace(/^node.*/, "agent");
  } catch {
    return "gone";
  }
}

function lives({ pid, started }: Part): boolean {
  const fields = statOf(pid);
  return fields[0] !== "Z" && fields[19] === started;
}

function filesBelow(directory: string): readonly string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** Wherever one of these processes may have been. */
const cores = (): readonly string[] =>
  [...new Set(["/", root, process.cwd(), service.bench.directory])].flatMap((directory) =>
    readdirSync(directory)
      .filter((name) => /^core(\.|$)/.test(name))
      .map((name) => join(directory, name)),
  );

/** A point of the launch after the PIN left the TPM: the nth command with this code. */
interface Point {
  readonly code: number;
  readonly turn: number;
}

/** Counts commands from the unseal on; true at the point. */
function watch({ code, turn }: Point): (command: BusCommand) => boolean {
  let unsealed = false;
  let seen = 0;
  return (command) => {
    unsealed ||= command.code === TPM_CC.unseal;
    return unsealed && command.code === code && seen++ === turn;
  };
}

/** As long as the PIN, and where the PIN must not be. */
const CANARY = LAUNCH_PIN.replaceAll(/[a-z]/g, "x");

async function copiesInFiles(files: readonly string[], needle: string): Promise<number> {
  return totalCount(await scanFiles(files, needle));
}

/** No PIN in its memory, in which what it was started with is found. */
function expectCleanMemory(agent: Agent, { pid, name }: Part): void {
  const known = name === "shim" ? "SOFTHSM2_CONF=" : agent.directory;
  const forms = (["latin1", "utf16le"] as const).map((encoding) => Buffer.from(LAUNCH_PIN, encoding));
  const [control = 0, ...copies] = countInMemory(pid, [Buffer.from(known), ...forms]);
  expect({ name, control: control > 0, copies }).toEqual({ name, control: true, copies: [0, 0] });
}

/** Nothing of it in the processes that live on, in the files of machine and shims, in the console, and no core. */
async function expectNoPin(agent: Agent, living: readonly Part[], before: readonly string[]): Promise<void> {
  expect(agent.console()).not.toContain(LAUNCH_PIN);
  for (const part of living) expectCleanMemory(agent, part);
  const canary = join(agent.directory, "canary");
  writeFileSync(canary, `${CANARY} ${CANARY}`);
  const files = filesBelow(service.bench.directory).filter(
    (path) => path.startsWith(agent.directory) || !path.includes("/agent-"),
  );
  expect(await copiesInFiles(files, CANARY)).toBe(2);
  expect(await copiesInFiles(files, LAUNCH_PIN)).toBe(0);
  for (const { pid } of living.filter(({ name }) => name === "shim")) {
    const inRoot = filesBelow(`/proc/${pid}/root`);
    expect(inRoot.length).toBeGreaterThan(5);
    expect(await copiesInFiles(inRoot, LAUNCH_PIN)).toBe(0);
  }
  expect(cores()).toEqual(before);
}

/** Where in the launch: who holds the PIN then, and the first command after that. */
const POINTS: readonly (readonly [string, Point])[] = [
  ["the unsealer has it", { code: TPM_CC.flushContext, turn: 0 }],
  ["it waits in the pipe", { code: TPM_CC.nvWrite, turn: 0 }],
  ["the shim has logged in", { code: TPM_CC.nvWrite, turn: 1 }],
];
const CASES = POINTS.flatMap(([when, point], index) => {
  const victims = index === 0 ? ["agent", "unsealer", "shim"] : ["agent", "shim"];
  const signals = index === 1 ? (["SIGKILL", "SIGSEGV"] as const) : (["SIGSEGV"] as const);
  return victims.flatMap((victim) => signals.map((signal) => [signal, victim, when, point] as const));
});

// nobody else can look into the memory of processes that are not dumpable
describe.skipIf(!isRoot)("a crash in the middle of the log-in leaves the PIN nowhere", () => {
  test.each(CASES)("I4: %s of the %s when %s", async (signal, victim, _when, point) => {
    const before = cores();
    const here = watch(point);
    const parts: Part[] = [];
    const state: { agent: Agent | null; struck: number } = { agent: null, struck: 0 };
    const agent = await service.start({
      fault: (command) => {
        if (state.agent === null || !here(command)) return null;
        parts.push(...partsFrom(state.agent.pid));
        for (const { pid } of parts.filter(({ name }) => name === victim)) {
          if (victim === "shim" && signal === "SIGSEGV") makeFault(pid);
          else process.kill(pid, signal);
          state.struck += 1;
        }
        return null;
      },
    });
    state.agent = agent;
    const ended = agent.ended.then((code) => `spawner ended: ${code}`);
    const launched = agent.launched().then(
      ({ state: name }) => String(name),
      () => ended,
    );
    const outcome = await Promise.race([ended, launched]);
    expect(state.struck).toBe(1);
    expect(parts.map(({ name }) => name)).toEqual(expect.arrayContaining(["spawner", "agent", "shim", victim]));
    expect(parts.map(({ coreLimit }) => coreLimit)).toEqual(parts.map(() => "0 0"));
    // without its agent the spawner caps and ends everything; else both live on and say no
    expect(outcome).toBe(victim === "agent" ? "spawner ended: 10" : "refused");
    const left = victim === "agent" ? [] : ["spawner", "agent"];
    await expect.poll(() => parts.filter(lives).map(({ name }) => name), { timeout: 20_000 }).toEqual(left);
    await expectNoPin(agent, parts.filter(lives), before);
  });
});

test.skipIf(!isRoot)(
  "I4: a machine that serves has the PIN in no process and no file, with three shims that it was given to",
  async () => {
    const before = cores();
    const agent = await service.start({ policy: (draft) => changeModule(draft, { spares: 2 }) });
    expect(await agent.launched()).toMatchObject({ state: "serving" });
    const parts = partsFrom(agent.pid);
    expect(parts.map(({ name }) => name).sort()).toEqual(["agent", "shim", "shim", "shim", "spawner"]);
    await expectNoPin(agent, parts, before);
  },
);

// where the kernel gives cores to a program, or to one directory, none is a file here
test.skipIf(!isRoot || /^[|/]/.test(readFileSync("/proc/sys/kernel/core_pattern", "utf8")))(
  "the core of a program that does leave one is found",
  () => {
    const before = cores();
    const { signal } = spawnSync("sh", ["-c", "kill -SEGV $$"], { cwd: service.bench.directory });
    expect(signal).toBe("SIGSEGV");
    const [core, ...others] = cores().filter((path) => !before.includes(path));
    expect(others).toEqual([]);
    rmSync(core ?? "");
  },
);
