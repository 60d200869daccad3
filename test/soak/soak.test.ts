import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { LOOKS, memoryFindings, toldOf } from "./memory.ts";
import { KEY_NAMES, LIMITS, planWorkloads, WORKLOADS } from "./plan.ts";

const run = promisify(execFile);
const SOAK = resolve(import.meta.dirname, "run.ts");

describe("the soak", () => {
  it("I6, I7: of 64 workloads at both doors none gets another's key, session, rate or budget, nor waits for one that is stuck", async () => {
    const { stdout } = await run(process.execPath, [SOAK, "--minutes", `${1 / 6}`, "--json"]);
    const { operations, faults, violations, memory } = JSON.parse(stdout);
    expect(violations).toEqual([]);
    expect(operations).toBeGreaterThan(WORKLOADS);
    expect(faults).toBeGreaterThan(100);
    expect(memory.descriptors.after).toBeLessThanOrEqual(memory.descriptors.before);
    for (const { middle, end } of [memory.heap, memory.resident]) expect(Math.min(middle, end)).toBeGreaterThan(1);
  });

  it.each([
    ["flat", () => 50, 9, []],
    ["grown in the first half only", (look: number) => 30 + Math.min(look, 10) * 3, 9, []],
    ["growing", (look: number) => 30 + look, 9, [/^the agent's heap grew over the last half: from \d+ to \d+ MiB$/]],
    ["one look above the others", (look: number) => (look === 19 ? 90 : 50), 9, []],
    ["flat, with a descriptor more", () => 50, 10, [/^1 descriptors of dropped connections are left$/]],
  ])("I10: memory that is %s is judged as that", (_what, heap, after, expected) => {
    const mib = 1 << 20;
    const looks = Array.from({ length: LOOKS }, (_, look) => ({
      ...{ heapBytes: heap(look) * mib, externalBytes: 0, residentBytes: 100 * mib },
    }));
    const findings = memoryFindings(toldOf(looks, { before: 9, after }));
    expect(findings).toEqual(expected.map((text) => expect.stringMatching(text)));
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
