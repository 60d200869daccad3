import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { compareTimes, median, percentile99, rateRow, timeRow } from "./bench.ts";

const run = promisify(execFile);
const HARNESS = resolve(import.meta.dirname, "run.ts");

// Shapes only: no test depends on how long anything takes. All rows and series are run by `whole.test.ts`.
describe("the benchmark", () => {
  it("writes what it measured into a folder, part by part", async () => {
    const folder = await mkdtemp(join(tmpdir(), "ironclaw-bench-"));
    const measure = (only: string) =>
      run(process.execPath, [HARNESS, "--iterations", "1", "--only", only, "--write", folder]);
    try {
      await measure("decide,growth-log");
      await measure("audit-append");
      expect((await readdir(folder)).sort()).toEqual(["README.md", "growth-log.svg", "results.jsonl"]);
      const text = await readFile(join(folder, "README.md"), "utf8");
      for (const id of ["| `decide` |", "| `audit-append` |", "### growth-log"]) expect(text).toContain(id);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("measures the rows that are asked for, and refuses others", async () => {
    const { stdout } = await run(process.execPath, [HARNESS, "--json", "--iterations", "1", "--only", "unseal-rsa"]);
    expect(JSON.parse(stdout).rows.map(({ id }: { id: string }) => id)).toEqual(["unseal-rsa"]);
    for (const args of [
      ["--only", "nothing"],
      ["--only", ""],
      ["--iterations", "0"],
      ["--iterations", "x"],
      ["--only", "growth,nothing"],
      ["--write", ""],
      ["more"],
    ]) {
      const refused = run(process.execPath, [HARNESS, ...args]);
      await expect(refused, args.join(" ")).rejects.toMatchObject({ code: 2, stdout: "" });
    }
  });

  it("compares medians of runs that take turns", async () => {
    expect([median([3, 1, 2]), median([4, 1, 3, 2]), median([7])]).toEqual([2, 2.5, 7]);
    const order: string[] = [];
    const way = (name: string) => async () => void order.push(name);
    await compareTimes({ ours: way("o"), peer: way("p") }, 1);
    expect(order.join("")).toBe("oppooppo");
    const row = { id: "x", what: "y", target: 1.5 };
    expect(timeRow(row, { ours: 3, peer: 2 })).toEqual({ ...row, ours: 3, peer: 2, unit: "ms", ratio: 1.5, ok: true });
    expect(timeRow(row, { ours: 3.001, peer: 2 }).ok).toBe(false);
    expect(rateRow(row, { ours: 3, peer: 2 })).toEqual({ ...row, ours: 3, peer: 2, unit: "/s", ratio: 1.5, ok: true });
    expect(rateRow(row, { ours: 2.999, peer: 2 }).ok).toBe(false);
    const hundred = Array.from({ length: 100 }, (_, index) => 100 - index);
    expect([percentile99(hundred), percentile99([...hundred, 101, 102]), percentile99([5])]).toEqual([99, 101, 5]);
  });
});
