import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { BareRoot } from "../support/bare-machine.ts";
import { buildGuestLab, openGuestLab } from "../support/guest-lab.ts";
import { buildLab, type LabBuild } from "../support/hostile-lab.ts";
import { tryBothStages } from "../support/hostile-measure.ts";
import { attemptTable, mergeStages, rowOf } from "../support/hostile-table.ts";
import { type Bench, openBench } from "../support/shim-fixture.ts";
import { devImage } from "../support/vm-machine.ts";

// What test/agent/hostile.test.ts measures on a development machine, below the spawner as PID 1 of a virtual machine.

const README = resolve(import.meta.dirname, "../hostile/README.md");

let bench: Bench;
let build: LabBuild;
let root: BareRoot;
beforeAll(async () => {
  bench = openBench();
  build = buildLab(bench);
  root = await buildGuestLab(await devImage("cloud"), build, bench.directory);
});
afterAll(() => bench.remove());

const rowsOf = (table: string) => table.split("\n").filter((line) => line.startsWith("| "));

describe.each(["cloud", "cloud-6.1"] as const)("under the kernel of recipe %s", (recipe) => {
  it("I5: a hostile library fails at every attempt, before ARM and after, as on a development machine", async () => {
    await using lab = await openGuestLab({ build, root, recipe, directory: `${bench.directory}/${recipe}` });
    const { before, after } = await tryBothStages(await lab.start());
    const rows = mergeStages(
      before.map((one) => rowOf("before ARM", one)),
      after.map((one) => rowOf("after ARM", one)),
    );
    const [, attempts = ""] = readFileSync(README, "utf8").split("## Attempts\n");
    const [known = ""] = attempts.split("## Acts\n");
    expect(rowsOf(attemptTable(rows))).toEqual(rowsOf(known));
  });
});
