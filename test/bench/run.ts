import { parseArgs } from "node:util";
import { type Result, type Row, runSuites, type Suite } from "./bench.ts";
import { decideSuite } from "./decide.ts";
import { launchSuite } from "./launch.ts";
import { sandboxSuite } from "./sandbox.ts";
import { serviceSuite } from "./service.ts";
import { signSuite } from "./sign.ts";
import { unsealSuite } from "./unseal.ts";
import { verifySuite } from "./verify.ts";

const SUITES: readonly Suite[] = [
  ...[unsealSuite, launchSuite, verifySuite, serviceSuite],
  ...[sandboxSuite, decideSuite, signSuite],
];
const IDS = SUITES.flatMap(({ ids }) => ids);
const USAGE = `usage: npm run bench -- [--only ID,...] [--iterations N] [--json]\n  rows: ${IDS.join(" ")}`;

interface Order {
  readonly wanted: ReadonlySet<string>;
  readonly iterations: number;
  readonly json: boolean;
}

/** Null for arguments that mean nothing. */
function parseOrder(args: readonly string[]): Order | null {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: { only: { type: "string" }, iterations: { type: "string", default: "40" }, json: { type: "boolean" } },
    });
    const wanted = values.only === undefined ? IDS : values.only.split(",");
    const iterations = Number(values.iterations);
    const known = wanted.every((id) => IDS.includes(id)) && Number.isInteger(iterations) && iterations > 0;
    return known ? { wanted: new Set(wanted), iterations, json: values.json ?? false } : null;
  } catch {
    return null;
  }
}

function formatTable({ machine, rows }: Result): string {
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
    head,
    ...rows.map(cells),
  ].join("\n");
}

async function main(): Promise<void> {
  const order = parseOrder(process.argv.slice(2));
  if (order === null) {
    console.error(USAGE);
    process.exitCode = 2;
    return;
  }
  const result = await runSuites(SUITES, order.wanted, { iterations: order.iterations });
  console.log(order.json ? JSON.stringify(result) : formatTable(result));
}

await main();
