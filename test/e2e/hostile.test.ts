import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildGuestLab, type GuestLab, type GuestLabBuild, openGuestLab } from "../support/guest-lab.ts";
import { tryBothStages } from "../support/hostile-measure.ts";
import { attemptTable, OPENED, type Row, rowsOf } from "../support/hostile-table.ts";
import { type Bench, openBench } from "../support/shim-fixture.ts";
import { devImage } from "../support/vm-machine.ts";

// What test/agent/hostile.test.ts and hostile-profiles.test.ts measure on a development machine, below the spawner as PID 1 of a virtual
// machine. The tables are theirs.

const folder = resolve(import.meta.dirname, "../hostile");

/** The rows of a table, without its head. */
function rowsUnder(file: string, heading: string): readonly string[] {
  const [, rest = ""] = readFileSync(resolve(folder, file), "utf8").split(`## ${heading}\n`);
  const [section = ""] = rest.split("\n## ");
  return section.split("\n").filter((line) => line.startsWith("| "));
}

const linesOf = (rows: readonly Row[]) =>
  attemptTable(rows)
    .split("\n")
    .filter((line) => line.startsWith("| "));

let bench: Bench;
let build: GuestLabBuild;
beforeAll(async () => {
  bench = openBench();
  build = await buildGuestLab(await devImage("cloud"), bench.directory);
});
afterAll(() => bench.remove());

describe.each(["cloud", "cloud-6.1"] as const)("a hostile library under the kernel of recipe %s", (recipe) => {
  let lab: GuestLab;
  let local: readonly Row[];
  beforeAll(async () => {
    lab = await openGuestLab(build, recipe);
  });
  afterAll(() => lab?.[Symbol.asyncDispose]());

  it("I5: fails at every attempt, before ARM and after, as on a development machine", async () => {
    local = rowsOf(await tryBothStages(await lab.start("local")));
    expect(linesOf(local)).toEqual(rowsUnder("README.md", "Attempts"));
  });

  // the filters are the same programs on every kernel: once is enough for what they open
  const opening = recipe === "cloud" ? (["relay", "usb"] as const) : [];
  it.for(opening)("I5: gets what the profile %s opens and nothing else", async (profile) => {
    const known = new Set(local.map((row) => JSON.stringify(row)));
    const rows = rowsOf(await tryBothStages(await lab.start(profile)), OPENED[profile]);
    const changed = rows.filter((row) => !known.has(JSON.stringify(row)));
    expect(linesOf(changed)).toEqual(rowsUnder("PROFILES.md", profile));
  });

  it("I10: leaves the agent and another shim working", async () => {
    const shim = await lab.start("local");
    await shim.serve();
    await shim.call("arm");
    expect(await shim.order("sign")).toEqual({ kind: "answer", text: "signed" });
  });
});
