import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { scanFiles, totalCount } from "../../vm-images/pin-scan.ts";
import { LAUNCH_PIN } from "../support/launch-fixture.ts";
import { findInMemory } from "../support/process-memory.ts";
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

/** A process below the spawner, by the name of its program. */
interface Part {
  readonly pid: number;
  readonly name: string;
}

function childrenOf(pid: number): readonly number[] {
  const path = `/proc/${pid}/task/${pid}/children`;
  return existsSync(path)
    ? readFileSync(path, "utf8")
        .split(" ")
        .filter((word) => word !== "")
        .map(Number)
    : [];
}

function partsBelow(pid: number): readonly Part[] {
  return childrenOf(pid).flatMap((child) => [{ pid: child, name: nameOf(child) }, ...partsBelow(child)]);
}

function nameOf(pid: number): string {
  try {
    return basename(readlinkSync(`/proc/${pid}/exe`)).replace(/^node.*/, "agent");
  } catch {
    return "gone";
  }
}

/** None in a process that ended meanwhile. */
function copiesIn({ pid }: Part, form: Uint8Array): ReturnType<typeof findInMemory> {
  try {
    return findInMemory(pid, form);
  } catch (error) {
    if (error instanceof Error && /ESRCH|ENOENT/.test(error.message)) return [];
    throw error;
  }
}

function filesBelow(directory: string): readonly string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

const cores = (): readonly string[] =>
  ["/", root, process.cwd(), service.bench.directory].flatMap((directory) =>
    readdirSync(directory).filter((name) => /^core(\.|$)/.test(name)),
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

/** Nothing of it in what lives on, in files, in the console, and no core. */
async function expectNoPin(agent: Agent, parts: readonly Part[], before: readonly string[]): Promise<void> {
  expect(agent.console()).not.toContain(LAUNCH_PIN);
  for (const part of isRoot ? parts : []) {
    for (const encoding of ["latin1", "utf16le"] as const) {
      expect(copiesIn(part, Buffer.from(LAUNCH_PIN, encoding)), part.name).toEqual([]);
    }
  }
  expect(totalCount(await scanFiles(filesBelow(agent.directory), LAUNCH_PIN))).toBe(0);
  expect(totalCount(await scanFiles(filesBelow(service.bench.directory), LAUNCH_PIN))).toBe(0);
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

describe("a crash in the middle of the log-in leaves the PIN nowhere", () => {
  test.each(CASES)("I4: %s of the %s when %s", async (signal, victim, _when, point) => {
    const before = cores();
    const here = watch(point);
    const parts: Part[] = [];
    const state: { agent: Agent | null; struck: number } = { agent: null, struck: 0 };
    const agent = await service.start({
      fault: (command) => {
        if (state.agent === null || !here(command)) return null;
        parts.push({ pid: state.agent.pid, name: "spawner" }, ...partsBelow(state.agent.pid));
        for (const { pid } of parts.filter(({ name }) => name === victim)) {
          process.kill(pid, signal);
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
    if (victim === "agent") expect(await ended).toBe("spawner ended: 10");
    else if (victim === "unsealer") expect(outcome).toBe("refused");
    await expectNoPin(agent, parts, before);
  });
});

test("I4: a scan of a machine that serves finds the PIN in no process and no file, and the scan does find what is there", async () => {
  const before = cores();
  const agent = await service.start();
  expect(await agent.launched()).toMatchObject({ state: "serving" });
  const parts = [{ pid: agent.pid, name: "spawner" }, ...partsBelow(agent.pid)];
  expect(parts.map(({ name }) => name)).toEqual(expect.arrayContaining(["spawner", "agent", "shim"]));
  await expectNoPin(agent, parts, before);
  if (isRoot) {
    const [shim] = parts.filter(({ name }) => name === "shim");
    expect(findInMemory(shim?.pid ?? -1, Buffer.from("SOFTHSM2_CONF="))).not.toEqual([]);
  }
});
