import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { KEY_NAMES, LIMITS, planWorkloads, WORKLOADS } from "./plan.ts";

const run = promisify(execFile);
const SOAK = resolve(import.meta.dirname, "run.ts");

describe("the soak", () => {
  it("I6, I7: of 64 workloads at both doors none gets another's key, session, rate or budget, nor waits for one that is stuck", async () => {
    const { stdout } = await run(process.execPath, [SOAK, "--minutes", `${1 / 6}`, "--json"]);
    const { operations, faults, violations } = JSON.parse(stdout);
    expect(violations).toEqual([]);
    expect(operations).toBeGreaterThan(WORKLOADS);
    expect(faults).toBeGreaterThan(100);
  });

  it("plans every kind of workload at each door, with keys of their own and shared ones", () => {
    const planned = planWorkloads();
    expect(new Set(planned.map(({ scope }) => scope)).size).toBe(WORKLOADS);
    expect(new Set(planned.map(({ key }) => key))).toEqual(new Set(KEY_NAMES));
    const kinds = new Set(planned.map(({ kind, door }) => `${kind} ${door}`));
    expect(kinds.size).toBe(2 * Object.keys(LIMITS).length);
  });

  it("refuses arguments that mean nothing", async () => {
    for (const args of [["--minutes", "0"], ["--minutes", "x"], ["--minutes", "Infinity"], ["more"]]) {
      const refused = run(process.execPath, [SOAK, ...args]);
      await expect(refused, args.join(" ")).rejects.toMatchObject({ code: 2, stdout: "" });
    }
  });
});
