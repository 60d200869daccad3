import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { LabHeld } from "../support/lab-broker.ts";
import { median, type Suite } from "./bench.ts";
import { Measured, type Series, sizesFor } from "./series.ts";
import { callerCommand, compileClient, openServed, type Served } from "./served.ts";

const SIZES = [1, 3, 10, 30, 100, 300, 1000] as const;
/** A scope has 256 connections at most. */
const SCOPES = 8;
/** Milliseconds of signing at each size, at most, and from when on nothing is compiled any more. */
const LONGEST = 500;
const WARM_UP = 4000;
const X = { name: "connected clients", unit: "" };

/** `growth-clients`: what a connection and a signature cost among so many. `growth-clients-memory`: what the agent holds for them. */
export const clientGrowthSuite: Suite = {
  ids: ["growth-clients", "growth-clients-memory"],
  run: async (wanted, { iterations }) => {
    const programs = mkdtempSync(join(tmpdir(), "ironclaw-hold-"));
    chmodSync(programs, 0o755);
    const program = compileClient(programs, "hold", ["sign-native", "times"]);
    const served = await openServed({ callers: [program], scopes: heldScopes });
    try {
      const series = await measure(served, program, iterations);
      return series.filter(({ id }) => wanted.has(id));
    } finally {
      await served.close();
      rmSync(programs, { recursive: true });
    }
  },
};

function heldScopes(): readonly Record<string, unknown>[] {
  const mechanisms = [{ type: "CKM_ECDSA", digest: "sha256" }];
  return scopeNames().map((name) => ({ name, caller: "bench", key: "ec", audit: "written", mechanisms }));
}

const scopeNames = () => Array.from({ length: SCOPES }, (_, index) => `held-${index}`);

async function measure(served: Served, program: string, iterations: number): Promise<readonly Series[]> {
  const measured = new Measured();
  const hold = (clients: number, milliseconds: number) => holdOpen(served, program, clients, milliseconds);
  await hold(SIZES[2], Math.min(WARM_UP, 100 * iterations));
  for (const size of sizesFor(SIZES, iterations)) {
    const runs: Held[] = [];
    for (let run = 0; run < Math.ceil(iterations / 16); run++)
      runs.push(await hold(size, Math.min(LONGEST, 12 * iterations)));
    measured.add("connect one", size, Math.min(...runs.map(({ opened }) => opened)));
    measured.add("sign, as the last one", size, Math.min(...runs.map(({ p50 }) => p50)));
    measured.add("heap and buffers", size, Math.max(1, median(runs.map(({ kibibytes }) => kibibytes))));
  }
  const what = `Connections of the native protocol over ${SCOPES} scopes, each with a session, all but one idle; agent and shim as in the rows that sign`;
  return [
    {
      ...{ id: "growth-clients", what: `${what}. What the client waits for: medians, of the best run`, x: X },
      y: { name: "time", unit: "us" },
      lines: measured.lines({ "connect one": "constant", "sign, as the last one": "constant" }),
    },
    {
      id: "growth-clients-memory",
      what: `${what}. What the agent holds after a collection, above what it held before they came`,
      ...{ x: X, y: { name: "memory", unit: "KiB" } },
      lines: measured.lines({ "heap and buffers": "linear" }),
    },
  ];
}

interface Held {
  /** Microseconds. */
  readonly opened: number;
  readonly p50: number;
  readonly kibibytes: number;
}

async function holdOpen(served: Served, program: string, clients: number, milliseconds: number): Promise<Held> {
  const before = await held(served);
  const command = callerCommand(program, [`${clients}`, `${milliseconds}`, ...scopeNames().map(served.socket)]);
  const child = spawn(...command, { cwd: "/", stdio: ["pipe", "pipe", "inherit"] });
  const ended = once(child, "close");
  const gone = ended.then(([code]) => Promise.reject(new Error(`the clients ended with ${code}`)));
  gone.catch(() => undefined);
  const [line] = (await Promise.race([once(child.stdout, "data"), gone])) as [Buffer];
  const during = await held(served);
  child.stdin.end();
  await ended;
  await delay(100); // the agent hears of the ends
  return { ...JSON.parse(line.toString()), kibibytes: (during - before) / 1024 };
}

async function held({ lab }: Served): Promise<number> {
  const { heapBytes, externalBytes }: LabHeld = await lab.ask("held");
  return heapBytes + externalBytes;
}
