import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import type { LeakFigures } from "../../endurance/tpm-leak.ts";
import { root } from "./fixture.ts";

test("2000 quotes and 500 unseals, some refused, leave no object and no session in the TPM, and memory as it was", async () => {
  const script = join(root, "test", "endurance", "tpm-leak.ts");
  // In a process of its own, so that the memory is that of the binding; fails when the figures are not clean.
  const { stdout } = await promisify(execFile)(process.execPath, [script, "2000", "500"]);
  const figures: LeakFigures = JSON.parse(stdout);
  expect(figures).toMatchObject({ quotes: 2000, unseals: 500, refusals: 50, handlesBefore: 0, handlesAfter: 0 });
  expect(figures.rssGrowthMiB).toBeLessThan(16);
});
