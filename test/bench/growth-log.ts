import { median, type Suite } from "./bench.ts";
import { lineOf, type Point, sizesFor } from "./series.ts";
import { type Held, hold, judge } from "./verify.ts";

const ID = "growth-log";
const KIBIBYTES = [16, 32, 64, 128, 256, 512, 1024] as const;

/** What a verifier pays for one report, over the size of the agent's log in it. */
export const logGrowthSuite: Suite = {
  ids: [ID],
  run: async (_wanted, { iterations }) => {
    const points: Point[] = [];
    for (const x of sizesFor(KIBIBYTES, iterations))
      points.push({ x, y: await judgeTime(await hold(x), Math.ceil(iterations / 4)) });
    return [
      {
        ...{ id: ID, what: "One report, parsed, verified and judged by a verifier that knows the release" },
        x: { name: "agent's log", unit: "KiB" },
        y: { name: "time", unit: "ms" },
        lines: [lineOf("verify a report", "linear", points)],
      },
    ];
  },
};

/** Median milliseconds of so many runs, behind as many that are not counted. */
async function judgeTime(held: Held, runs: number): Promise<number> {
  const times: number[] = [];
  for (let run = -runs; run < runs; run++) {
    const start = performance.now();
    await judge(held);
    if (run >= 0) times.push(performance.now() - start);
  }
  return median(times);
}
