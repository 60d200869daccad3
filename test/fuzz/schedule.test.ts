import { describe, expect, test } from "vitest";
import { Schedule } from "./schedule.ts";

/** Lets `jobs` workers use up what they are given, with `late` milliseconds more each, on a clock of its own. */
function play(targets: readonly string[], plan: { milliseconds: number; jobs: number; each: boolean }, late = 0) {
  let clock = 1000;
  const schedule = new Schedule(targets, plan, () => clock);
  const shares: [string, number][] = [];
  const busy = Array.from({ length: plan.jobs }, () => clock);
  for (;;) {
    const worker = busy.indexOf(Math.min(...busy));
    clock = busy[worker] ?? clock;
    const share = schedule.next();
    if (share === null) return { shares, end: Math.max(...busy) - 1000 };
    shares.push([share.target, share.milliseconds]);
    busy[worker] = clock + share.milliseconds + late;
  }
}

describe("the time of a run", () => {
  test("is shared out equally among the targets, as many at once as there are jobs", () => {
    const { shares, end } = play(["a", "b", "c", "d"], { milliseconds: 600, jobs: 2, each: false });
    expect(shares).toEqual([
      ["a", 300],
      ["b", 300],
      ["c", 300],
      ["d", 300],
    ]);
    expect(end).toBe(600);
  });

  test("is all of it for each target when there are no more of them than jobs", () => {
    expect(play(["a", "b"], { milliseconds: 600, jobs: 4, each: false }).shares).toEqual([
      ["a", 600],
      ["b", 600],
    ]);
  });

  test("is nearly kept though each target takes longer than its share, and no target goes without", () => {
    const many = Array.from({ length: 80 }, (_, index) => `${index}`);
    const { shares, end } = play(many, { milliseconds: 60_000, jobs: 2, each: false }, 500);
    expect(shares).toHaveLength(80);
    expect(end).toBeLessThan(66_000);
    expect(Math.min(...shares.map(([, milliseconds]) => milliseconds))).toBe(375);
  });

  test("is every target's own where that is asked for", () => {
    const { shares, end } = play(["a", "b", "c"], { milliseconds: 600, jobs: 1, each: true });
    expect(shares.map(([, milliseconds]) => milliseconds)).toEqual([600, 600, 600]);
    expect(end).toBe(1800);
  });
});
