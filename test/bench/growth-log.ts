import type { Suite } from "./bench.ts";
import { ownTime } from "./repeat.ts";
import { lineOf, type Point, sizesFor } from "./series.ts";
import { hold, judge } from "./verify.ts";

const ID = "growth-log";
const KIBIBYTES = [16, 32, 64, 128, 256, 512, 1024] as const;

/** What a verifier pays for one report, over the size of the agent's log in it. */
export const logGrowthSuite: Suite = {
  ids: [ID],
  run: async (_wanted, { iterations }) => {
    const points: Point[] = [];
    for (const x of sizesFor(KIBIBYTES, iterations)) {
      const held = await hold(x);
      points.push({ x, y: await ownTime(iterations, () => judge(held)) });
    }
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
