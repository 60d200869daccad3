// npm run soak -- [--minutes N] [--seed N] [--only crowd|machine] [--plant WHAT]... [--json]: exit code 1 when something did not hold,
// 2 for arguments that mean nothing
import { parseArgs } from "node:util";
import { memoryText } from "./crowd/memory.ts";
import { PLANTS, type Plant } from "./machine/plants.ts";
import { newSeed } from "./machine/soak.ts";
import { PARTS, type Part, soak } from "./soak.ts";

const USAGE = `usage: npm run soak -- [--minutes N] [--seed N] [--only ${PARTS.join("|")}] [--plant ${PLANTS.join("|")}]... [--json]`;
const MINUTES = 10;

interface Order {
  readonly minutes: number;
  readonly seed: number;
  readonly parts: readonly Part[];
  readonly plants: readonly Plant[];
  readonly json: boolean;
}

/** Null for arguments that mean nothing. */
function parseOrder(args: readonly string[]): Order | null {
  try {
    const text = { type: "string" } as const;
    const options = { minutes: text, seed: text, only: text, plant: { ...text, multiple: true } } as const;
    const { values } = parseArgs({ args: [...args], options: { ...options, json: { type: "boolean" } } });
    const minutes = Number(values.minutes ?? MINUTES);
    const seed = Number(values.seed ?? newSeed());
    const parts = PARTS.filter((part) => values.only === undefined || values.only === part);
    const plants = PLANTS.filter((plant) => values.plant?.includes(plant));
    const all = parts.length > 0 && plants.length === new Set(values.plant).size;
    if (!(minutes > 0) || !Number.isFinite(minutes) || !Number.isSafeInteger(seed) || !all) return null;
    return { minutes, seed, parts, plants, json: values.json ?? false };
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
  const { json } = order;
  console.error(`seed ${order.seed}`);
  const result = await soak({ ...order, say: (line) => console.error(line) });
  if (json) console.log(JSON.stringify(result));
  else {
    const { operations, faults, faultsByKind, violations, crowd } = result;
    console.log(`${operations} operations, ${faults} faults, ${violations.length} violations`);
    for (const [kind, count] of Object.entries(faultsByKind)) console.log(`  ${kind}: ${count}`);
    if (crowd !== null) console.log(memoryText(crowd.memory));
    for (const violation of violations) console.log(`  ${violation}`);
  }
  if (result.violations.length > 0) process.exitCode = 1;
}

await main();
