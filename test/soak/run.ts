// npm run soak -- [--minutes N] [--json]: exit code 1 when something did not hold, 2 for arguments that mean nothing
import { parseArgs } from "node:util";
import { memoryText } from "./memory.ts";
import { soak } from "./soak.ts";

const USAGE = "usage: npm run soak -- [--minutes N] [--json]";
const MINUTES = 10;
const DROPS = 10_000;

interface Order {
  readonly milliseconds: number;
  readonly drops: number;
  readonly json: boolean;
}

/** As many connections in a short run as come and go in that part of a long one. Null for arguments that mean nothing. */
function parseOrder(args: readonly string[]): Order | null {
  try {
    const options = { minutes: { type: "string", default: `${MINUTES}` }, json: { type: "boolean" } } as const;
    const { values } = parseArgs({ args: [...args], options });
    const minutes = Number(values.minutes);
    if (!(minutes > 0) || !Number.isFinite(minutes)) return null;
    const drops = Math.ceil(DROPS * Math.min(1, minutes / MINUTES));
    return { milliseconds: minutes * 60_000, drops, json: values.json ?? false };
  } catch {
    return null;
  }
}

async function main(): Promise<void> {
  const order = parseOrder(process.argv.slice(2));
  if (order === null) {
    console.error(USAGE);
    process.exitCode = 2;
    return;
  }
  const result = await soak(order);
  if (order.json) console.log(JSON.stringify(result));
  else {
    console.log(`${result.operations} operations, ${result.faults} faults, ${result.violations.length} violations`);
    console.log(memoryText(result.memory));
    for (const violation of result.violations) console.log(`  ${violation}`);
  }
  if (result.violations.length > 0) process.exitCode = 1;
}

await main();
