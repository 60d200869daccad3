import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import type { ShimFile } from "../../agent/spawner-client.ts";
import { NO_DEVICES, openSpawnerBench, PROFILE, profileSha256, range } from "./spawner/bench.ts";
import { closureOf, type HostOptions, type HostSpawner } from "./spawner/host.ts";

const bench = openSpawnerBench();
let shimFiles: readonly ShimFile[];
beforeAll(() => {
  shimFiles = [...closureOf(bench.programs.shim), range("/profile", 0, PROFILE.length)];
});

let directories = 0;
const newDirectory = (): string => join(bench.programs.directory, `shims-${++directories}`);

async function serves(spawner: HostSpawner): Promise<boolean> {
  await spawner.client.prepareShim(0, shimFiles);
  await spawner.client.startShim({ id: 0, profileSha256, environment: [], writable: [], ...NO_DEVICES });
  return (await spawner.client.shimStatus(0)).state === "running";
}

/** With kill -9, while a shim of its runs and another is prepared. */
async function leaveBehind(runDirectory: string): Promise<readonly string[]> {
  const spawner = await bench.started({ runDirectory });
  await serves(spawner);
  await spawner.client.prepareShim(1, shimFiles);
  process.kill(spawner.pid, "SIGKILL");
  await spawner.ended();
  return readdirSync(runDirectory).sort();
}

const LEFT = ["0", "0.rw", "1", "1.rw"];
const CALLS = ["mkdir", "flock", "unlinkat"] as const;
/** Steps of taking a directory over: making it, its lock, and what may be in it, three for each of sixteen shims. */
const STEPS = CALLS.flatMap((call) =>
  (call === "unlinkat" ? [1, 2, 3, 4, 5, 6, 48] : [1]).map((when) => ({ call, when })),
);

const refusal = (options: HostOptions) => bench.started(options).then(() => "started", String);

describe("the run directory", () => {
  test("I11: of a spawner that was killed is taken over by the next one, which serves", async () => {
    const runDirectory = newDirectory();
    for (let time = 0; time < 2; time++) {
      expect(await leaveBehind(runDirectory)).toEqual(LEFT);
    }
    expect(await serves(await bench.started({ runDirectory }))).toBe(true);
  });

  test.each(STEPS)("I11: is taken over, too, after a start that was killed at $call $when", async (killedAt) => {
    const runDirectory = newDirectory();
    await leaveBehind(runDirectory);
    expect(await refusal({ runDirectory, killedAt })).toContain("spawner ended");
    const rest = readdirSync(runDirectory).sort();
    expect(LEFT).toEqual(expect.arrayContaining(rest));
    if (killedAt.call !== "unlinkat") expect(rest).toEqual(LEFT);
    expect(await serves(await bench.started({ runDirectory }))).toBe(true);
  });

  test("I3: of a spawner that lives is its own: another one is refused, and takes nothing of it", async () => {
    const runDirectory = newDirectory();
    const first = await bench.started({ runDirectory });
    expect(await serves(first)).toBe(true);
    const said = await refusal({ runDirectory });
    expect(said).toContain(`run directory ${runDirectory}: another spawner has it`);
    // It capped nothing: the launch is the other's.
    expect(said).not.toContain("agent PCR");
    expect((await first.client.shimStatus(0)).state).toBe("running");
    expect(readdirSync(runDirectory).sort()).toEqual(["0", "0.rw"]);
  });

  test("I11: that has something else in it is refused by name, and keeps it", async () => {
    const runDirectory = newDirectory();
    mkdirSync(join(runDirectory, "3.rw"), { recursive: true });
    const foreign = join(runDirectory, "3.rw/document");
    writeFileSync(foreign, "somebody's");
    expect(await refusal({ runDirectory })).toContain(`run directory ${runDirectory}/3.rw: Directory not empty`);
    expect(existsSync(foreign)).toBe(true);
    rmSync(foreign);
    expect(await serves(await bench.started({ runDirectory }))).toBe(true);
  });

  test("I1: that others may write to, or that is a link, is refused: who could put something there could swap a root", async () => {
    const runDirectory = newDirectory();
    mkdirSync(runDirectory);
    chmodSync(runDirectory, 0o777);
    expect(await refusal({ runDirectory })).toContain(`run directory ${runDirectory}: not this user's alone`);
    chmodSync(runDirectory, 0o700);
    const link = newDirectory();
    symlinkSync(runDirectory, link);
    expect(await refusal({ runDirectory: link })).toContain(`run directory ${link}: Not a directory`);
  });
});
