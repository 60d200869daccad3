import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { compareTimes, median, percentile99, type Result, rateRow, timeRow } from "./bench.ts";
import { lineOf } from "./series.ts";

const run = promisify(execFile);
const HARNESS = resolve(import.meta.dirname, "run.ts");

const TARGETS: Readonly<Record<string, number>> = {
  ...{ unseal: 1.5, "unseal-p384": 1.5, "unseal-rsa": 1.5 },
  ...{ "unseal-import": 1.5, "unseal-import-p384": 1.5, "unseal-import-rsa": 1.5, "launch-agent": 2 },
  ...{ "verify-report": 3, "verify-report-known-release": 3, "verify-report-linear": 1.3, "cbor-hostile": 50 },
  ...{ "verifier-16": 0.33, "verifier-p99-16": 250, sandbox: 0.95, "launch-shim": 4 },
  ...{ decide: 10, "audit-append": 8 },
  ...{ "sign-ec-1": 1.5, "sign-ec-4": 1, "sign-ec-16": 1.5, "sign-rsa-1": 1, "sign-rsa-4": 1, "sign-rsa-16": 1 },
  ...{ "sign-ec-native-16": 1, "sign-p99-4": 1, "memory-agent": 110, "memory-shim": 12 },
};
/** Lines of each series. */
const SERIES: Readonly<Record<string, number>> = {
  ...{ "curve-ec-rate": 4, "curve-ec-p99": 4, "curve-rsa-rate": 4, "curve-rsa-p99": 4 },
  ...{ "growth-scopes": 2, "growth-scopes-open": 3, "growth-keys": 2, "growth-keys-open": 3 },
  ...{ "growth-clients": 2, "growth-clients-memory": 1, "growth-audit": 2, "growth-audit-open": 2 },
  ...{ "growth-log": 1, "growth-machines": 4, "growth-machines-all": 3 },
};
const SIGNING = /^(sign|curve)-/;
const ON = ["policy", "audit", "sandbox", "durability"];

/** One run of each way: what comes first, and no figure to believe. */
async function measureAll(only: string): Promise<Result> {
  const { stdout } = await run(process.execPath, [HARNESS, "--json", "--iterations", "1", "--only", only]);
  return JSON.parse(stdout);
}

function unitOf(id: string): string {
  if (id.startsWith("memory-")) return "MiB";
  if (["decide", "audit-append"].includes(id)) return "us";
  return ["verifier-16", "sandbox"].includes(id) || /^sign-(ec|rsa)-/.test(id) ? "/s" : "ms";
}

// Shapes only: no test depends on how long anything takes.
describe("the benchmark", () => {
  it("ends with one JSON document of machine, rows and series, and says what was on while it signed", async () => {
    const { machine, rows, series } = await measureAll("rows");
    expect(machine).toEqual({
      ...{ cpu: expect.any(String), cores: expect.any(Number), kernel: expect.any(String), node: process.version },
      ...{ loadBefore: expect.any(Number), loadAfter: expect.any(Number) },
    });
    expect(series).toEqual([]);
    expect(rows.map(({ id, target }) => [id, target])).toEqual(Object.entries(TARGETS));
    for (const row of rows) {
      const signs = SIGNING.test(row.id);
      const fields = ["id", "what", "ours", "peer", "unit", "ratio", "target", "ok"];
      expect(Object.keys(row)).toEqual([...fields, ...(signs ? ["on"] : [])]);
      expect(row.on, row.id).toEqual(signs ? ON : undefined);
      expect(row).toMatchObject({ unit: unitOf(row.id), what: expect.any(String), ok: expect.any(Boolean) });
      expect(row.ours > 0 && row.peer > 0 && row.ratio > 0, row.id).toBe(true);
    }
  }, 600_000);

  it.each(["growth", "curve"])(
    "measures the series of %s at three sizes at least, and judges what grows",
    async (group) => {
      const { rows, series } = await measureAll(group);
      expect(rows).toEqual([]);
      const expected = Object.entries(SERIES).filter(([id]) => id.startsWith(`${group}-`));
      expect(series.map(({ id, lines }) => [id, lines.length])).toEqual(expected);
      for (const { id, lines, on } of series) {
        expect(on, id).toEqual(SIGNING.test(id) ? ON : undefined);
        for (const line of lines) {
          expect(line.points.length, `${id} ${line.name}`).toBeGreaterThanOrEqual(3);
          expect(line.points.every(({ x, y }, at) => y > 0 && x > (line.points[at - 1]?.x ?? 0))).toBe(true);
          expect(line).toEqual(lineOf(line.name, line.growth, line.points));
          expect(typeof line.ok, `${id} ${line.name}`).toBe(SIGNING.test(id) ? "object" : "boolean");
        }
      }
    },
  );

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
