import { parseArgs } from "node:util";
import { type Result, type Row, runSuites, type Suite } from "./bench.ts";
import { curveSuite } from "./curve.ts";
import { decideSuite } from "./decide.ts";
import { writeResults } from "./document.ts";
import { auditGrowthSuite } from "./growth-audit.ts";
import { clientGrowthSuite } from "./growth-clients.ts";
import { keyGrowthSuite } from "./growth-keys.ts";
import { logGrowthSuite } from "./growth-log.ts";
import { machineGrowthSuite } from "./growth-machines.ts";
import { scopeGrowthSuite } from "./growth-scopes.ts";
import { launchSuite } from "./launch.ts";
import { memorySuite } from "./memory.ts";
import { sandboxSuite } from "./sandbox.ts";
import { axisText, type Line, type Series } from "./series.ts";
import { serviceSuite } from "./service.ts";
import { signSuite } from "./sign.ts";
import { unsealSuite } from "./unseal.ts";
import { verifySuite } from "./verify.ts";

/** By the words that stand for all of a kind. */
const GROUPS: Readonly<Record<string, readonly Suite[]>> = {
  rows: [
    ...[unsealSuite, launchSuite, verifySuite, serviceSuite],
    ...[sandboxSuite, decideSuite, signSuite, memorySuite],
  ],
  curve: [curveSuite],
  growth: [
    ...[scopeGrowthSuite, keyGrowthSuite, clientGrowthSuite, auditGrowthSuite],
    ...[logGrowthSuite, machineGrowthSuite],
  ],
};
const SUITES = Object.values(GROUPS).flat();
const idsOf = (suites: readonly Suite[]) => suites.flatMap(({ ids }) => ids);
const IDS = idsOf(SUITES);
const USAGE = [
  "usage: npm run bench -- [--only ID,...] [--iterations N] [--full] [--write FOLDER] [--json]",
  ...Object.entries(GROUPS).map(([group, suites]) => `  ${group}: ${idsOf(suites).join(" ")}`),
].join("\n");

interface Order {
  readonly wanted: ReadonlySet<string>;
  readonly iterations: number;
  readonly full: boolean;
  readonly folder: string | null;
  readonly json: boolean;
}

/** Null for arguments that mean nothing. */
function parseOrder(args: readonly string[]): Order | null {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        ...{ only: { type: "string" }, write: { type: "string" }, iterations: { type: "string", default: "40" } },
        ...{ json: { type: "boolean", default: false }, full: { type: "boolean", default: false } },
      },
    });
    const named = values.only?.split(",") ?? Object.keys(GROUPS);
    const wanted = named.flatMap((name) => (Object.hasOwn(GROUPS, name) ? idsOf(GROUPS[name] ?? []) : [name]));
    const iterations = Number(values.iterations);
    const known = wanted.every((id) => IDS.includes(id)) && Number.isInteger(iterations) && iterations > 0;
    if (!known || values.write === "") return null;
    const { full, json, write: folder = null } = values;
    return { wanted: new Set(wanted), iterations, full, folder, json };
  } catch {
    return null;
  }
}

function formatTable({ machine, rows, series }: Result): string {
  const cells = ({ id, ours, peer, unit, ratio, target, ok, what }: Row) =>
    [
      id.padEnd(28),
      `${ours} ${unit}`.padEnd(14),
      `${peer} ${unit}`.padEnd(14),
      `${ratio}`.padEnd(8),
      `${target}`.padEnd(8),
    ]
      .concat(ok ? "ok     " : "missed ", what)
      .join("");
  const head = `${"row".padEnd(28)}${"ours".padEnd(14)}${"peer".padEnd(14)}${"ratio".padEnd(8)}${"target".padEnd(8)}`;
  const load = `load ${machine.loadBefore} before, ${machine.loadAfter} after`;
  return [
    `${machine.cpu}, ${machine.cores} cores, Linux ${machine.kernel}, Node ${machine.node}, ${load}`,
    ...(rows.length === 0 ? [] : [head, ...rows.map(cells)]),
    ...series.flatMap(formatSeries),
  ].join("\n");
}

function formatSeries({ id, x, y, lines }: Series): readonly string[] {
  const verdict = ({ slope, bound, ok }: Line) =>
    ok === null ? "" : `  slope ${slope}, at most ${bound}: ${ok ? "ok" : "missed"}`;
  const text = (line: Line) =>
    `  ${line.name}: ${line.points.map((point) => `${point.x} ${point.y}`).join(", ")}${verdict(line)}`;
  return [`${id}, ${axisText(y)} over ${axisText(x)}`, ...lines.map(text)];
}

async function main(): Promise<void> {
  const order = parseOrder(process.argv.slice(2));
  if (order === null) {
    console.error(USAGE);
    process.exitCode = 2;
    return;
  }
  const { wanted, folder, json, ...options } = order;
  const result = await runSuites(SUITES, wanted, options, (part) => {
    const done = [...part.rows, ...part.series].map(({ id }) => id).join(", ");
    console.error(`${Math.round(performance.now() / 1000)} s: ${done}`);
    if (folder !== null) writeResults(folder, { at: new Date().toISOString(), ...part }, IDS);
  });
  console.log(json ? JSON.stringify(result) : formatTable(result));
}

await main();
