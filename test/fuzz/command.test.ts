import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, test } from "vitest";

const run = promisify(execFile);
const COMMAND = join(import.meta.dirname, "run.ts");
const directory = mkdtempSync(join(tmpdir(), "fuzz-command-"));
afterAll(() => rmSync(directory, { recursive: true }));

describe("npm run fuzz", () => {
  test("I10: ends with one document that has what each target did, and leaves the inputs that reached something new", async () => {
    const order = ["--minutes", "0.05", "--only", "store-slot,der", "--corpus", directory, "--json"];
    const { stdout } = await run(process.execPath, [COMMAND, ...order]);
    const { targets } = JSON.parse(stdout);
    expect(targets).toEqual(
      ["store-slot", "der"].map((name) => ({
        ...{ name, runs: expect.any(Number), coverage: expect.any(Number) },
        ...{ crashes: 0, findings: [] },
      })),
    );
    for (const { name, runs } of targets) {
      expect(runs).toBeGreaterThan(10);
      const kept = readdirSync(join(directory, name)).length;
      expect(kept).toBeGreaterThan(1);
    }
  });

  test.each([
    ["no time", ["--minutes", "0"]],
    ["time without end", ["--minutes", "Infinity"]],
    ["no jobs", ["--jobs", "0"]],
    ["a target that there is not", ["--only", "nothing"]],
  ])("refuses %s with its usage", async (_, args) => {
    const failure = await run(process.execPath, [COMMAND, ...args]).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 2, stderr: expect.stringContaining("usage: npm run fuzz") });
  });
});
