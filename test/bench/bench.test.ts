import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { compareTimes, median, percentile99, rateRow, timeRow } from "./bench.ts";

const run = promisify(execFile);
const HARNESS = resolve(import.meta.dirname, "run.ts");

function unitOf(id: string): string {
  if (["decide", "audit-append"].includes(id)) return "us";
  return ["verifier-16", "sandbox"].includes(id) || /^sign-(ec|rsa)-/.test(id) ? "/s" : "ms";
}

// Shapes only: no test depends on how long anything takes.
describe("the benchmark", () => {
  it("ends with one JSON document of machine and rows", async () => {
    const { stdout } = await run(process.execPath, [HARNESS, "--json", "--iterations", "1"]);
    const result = JSON.parse(stdout);
    expect(result.machine).toEqual({
      ...{ cpu: expect.any(String), cores: expect.any(Number), kernel: expect.any(String), node: process.version },
      ...{ loadBefore: expect.any(Number), loadAfter: expect.any(Number) },
    });
    const targets = {
      ...{ unseal: 1.5, "unseal-p384": 1.5, "unseal-rsa": 1.5 },
      ...{ "unseal-import": 1.5, "unseal-import-p384": 1.5, "unseal-import-rsa": 1.5, "launch-agent": 2 },
      ...{ "verify-report": 3, "verify-report-known-release": 3, "verify-report-linear": 1.3, "cbor-hostile": 50 },
      ...{ "verifier-16": 0.33, "verifier-p99-16": 250, sandbox: 0.95, "launch-shim": 4 },
      ...{ decide: 10, "audit-append": 8 },
      ...{ "sign-ec-1": 1.5, "sign-ec-4": 1, "sign-ec-16": 1.5, "sign-rsa-1": 1, "sign-rsa-4": 1, "sign-rsa-16": 1 },
      ...{ "sign-ec-native-16": 1, "sign-p99-4": 1 },
    };
    const found = result.rows.map(({ id, target }: { id: string; target: number }) => [id, target]);
    expect(found).toEqual(Object.entries(targets));
    for (const row of result.rows) {
      expect(Object.keys(row)).toEqual(["id", "what", "ours", "peer", "unit", "ratio", "target", "ok"]);
      expect(row).toMatchObject({ unit: unitOf(row.id), what: expect.any(String), ok: expect.any(Boolean) });
      expect(row.ours > 0 && row.peer > 0 && row.ratio > 0, row.id).toBe(true);
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
