import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import type { Result } from "./bench.ts";
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

// Shapes only: no test depends on how long anything takes. In the campaign, because all of it takes minutes.
describe("the whole benchmark", () => {
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
});
