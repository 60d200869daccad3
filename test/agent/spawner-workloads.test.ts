import { readFileSync, readlinkSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { encodePrepareShim } from "../../agent/spawner-messages.ts";
import { openSpawnerBench, range } from "./spawner/bench.ts";
import { single } from "./spawner/host.ts";

const bench = openSpawnerBench();

describe("workloads", () => {
  const uid = single ? 0 : 2001;

  test("each runs as its own user with an environment of its own, and nothing of the launch may follow", async () => {
    const workloads = "# comment\n\nshow 2001 workload.2001 /usr/bin/id -u\nlist 2001 - /usr/bin/env\n";
    const spawner = await bench.started({ workloads });
    expect(await spawner.client.startWorkloads()).toBe(2);
    for (let tries = 0; spawner.log().split("exit code 0").length < 3 && tries < 500; tries++) await delay(10);
    expect(spawner.log()).toMatch(new RegExp(`^${uid}$`, "m"));
    expect(spawner.log()).toMatch(/^PATH=\/usr\/bin:\/bin\nHOME=\/\n(?!\w+=)/m);
    expect((await spawner.client.shimStatus(0)).state).toBe("never-started");
    await expect(spawner.packet(encodePrepareShim(0, [range("/a", 0, 1)]))).rejects.toThrow();
    expect(await spawner.ended()).toBe(11);
  });

  test("I10: a workload is limited in its processes and ends before the agent when memory runs out", async () => {
    const workloads =
      "score 2001 - /usr/bin/cat /proc/self/oom_score_adj\nlimit 2001 - /usr/bin/grep processes /proc/self/limits\n";
    const spawner = await bench.started({ workloads });
    await spawner.client.startWorkloads();
    await expect.poll(() => spawner.log().split("exit code 0").length, { timeout: 20_000 }).toBe(3);
    expect(spawner.log()).toMatch(/^500$/m);
    expect(spawner.log()).toMatch(/^Max processes +256 +256 /m);
    const agent = await spawner.logged(/agent started, pid (\d+)/);
    expect(Number(readFileSync(`/proc/${agent}/oom_score_adj`, "utf8"))).toBeLessThan(500);
  });

  test("I10: a workload writes to a pipe of its own, never to the spawner's terminal", async () => {
    const spawner = await bench.started({
      workloads: "out 2001 - /usr/bin/readlink /proc/self/fd/1 /proc/self/fd/2\n",
    });
    await spawner.client.startWorkloads();
    await expect.poll(() => spawner.log(), { timeout: 20_000 }).toContain("exit code 0");
    const pipes = spawner.log().match(/^pipe:\[\d+\]$/gm) ?? [];
    expect(pipes).toHaveLength(2);
    expect(pipes[0]).toBe(pipes[1]);
    expect(pipes).not.toContain(readlinkSync(`/proc/${spawner.pid}/fd/2`));
  });

  test("I10: the output of workloads reaches the log in full, each line in one piece, before the word that they ended", async () => {
    const spawner = await bench.started({
      workloads: "low 2002 - /usr/bin/seq 1 40000\nhigh 2003 - /usr/bin/seq 50001 90000\n",
    });
    await spawner.client.startWorkloads();
    await expect.poll(() => spawner.log().split("exit code 0").length, { timeout: 20_000 }).toBe(3);
    const lines = spawner.log().split("\n");
    const numbers = lines
      .slice(
        0,
        lines.findLastIndex((line) => line.includes("exit code 0")),
      )
      .map(Number);
    for (const first of [1, 50_001])
      expect(numbers.filter((number) => number >= first && number < first + 40_000)).toEqual(
        Array.from({ length: 40_000 }, (_, index) => first + index),
      );
  });

  test("I10: a last line without a line feed is ended, and an endless one is cut, so that no log line is glued to it", async () => {
    const spawner = await bench.started({
      workloads: `last 2002 - /usr/bin/printf last-words
long 2002 - /usr/bin/printf %03000d 7
full 2002 - /usr/bin/printf %01023d\\nx%01023d\\n 8 9
`,
    });
    await spawner.client.startWorkloads();
    await expect.poll(() => spawner.log().split("exit code 0").length, { timeout: 20_000 }).toBe(4);
    const lines = spawner.log().split("\n");
    expect(lines).toContain("last-words");
    expect(lines.filter((line) => /^0+7?$/.test(line)).map(({ length }) => length)).toEqual([1023, 1023, 954]);
    // Another workload's line may stand between two of these.
    expect(lines.filter((line) => /^(0+8|x0+|9)$/.test(line)).map((line) => [line.length, line.at(-1)])).toEqual([
      [1023, "8"],
      [1023, "0"],
      [1, "9"],
    ]);
    const ended = lines.filter((line) => line.includes("ended, exit code 0"));
    expect(ended).toEqual(Array(3).fill(expect.stringMatching(/^WARNING spawner: workload (last|long|full): ended/)));
  });

  test.each([
    "x 0 - /bin/true",
    "x 991 - /bin/true",
    "x 2001 -",
    "x 2001 - true",
    "x 2001 a/b /bin/true",
    "x  2001 - /bin/true",
    "x -1 - /bin/true",
  ])("a list with the line %j starts nothing", async (line) => {
    const spawner = await bench.started({
      workloads: `good 2001 - /usr/bin/env\n${line}\n`,
    });
    await expect(spawner.client.startWorkloads()).rejects.toThrow(/line 2/);
    expect(spawner.log()).not.toMatch(/workload good/);
  });
});
