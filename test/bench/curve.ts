import { availableParallelism } from "node:os";
import { median, type Suite } from "./bench.ts";
import { type Axis, lineOf, type Series, sizesFor } from "./series.ts";
import { DEPTH, type Load, openSignBench, type SignBench, WARM_UP, warmUp } from "./sign.ts";

const CLIENTS = [1, 2, 4, 8, 16, 32, 64] as const;
/** Milliseconds of one run by each way, at most. */
const LONGEST = 1000;
/** What a scope lets wait at once, of all clients together. */
const IN_FLIGHT = 256;
const KEYS = {
  ec: { name: "P-256", shims: 1 },
  rsa: { name: "RSA-2048", shims: Math.min(availableParallelism(), 4) },
} as const;
type Key = keyof typeof KEYS;
const WAYS = ["broker", "stock", "native", "direct"] as const;
type Way = (typeof WAYS)[number];
const NAMES: Readonly<Record<Way, string>> = {
  broker: "ours, stock client",
  stock: "p11-kit server, stock client",
  native: "ours, native client",
  direct: "the library in each client's process",
};
const X: Axis = { name: "clients", unit: "" };
const RATE: Axis = { name: "signatures", unit: "/s" };
const P99: Axis = { name: "time that 99 of 100 signatures keep", unit: "ms" };

/** Throughput and p99 over the number of clients, of each way and its peer; one run of each at a time. */
export const curveSuite: Suite = {
  ids: ["curve-ec-rate", "curve-ec-p99", "curve-rsa-rate", "curve-rsa-p99"],
  run: async (wanted, { iterations }) => {
    const series: Series[] = [];
    for (const key of ["ec", "rsa"] as const) {
      if (![`curve-${key}-rate`, `curve-${key}-p99`].some((id) => wanted.has(id))) continue;
      series.push(...(await measureKey(key, iterations)));
    }
    return series.filter(({ id }) => wanted.has(id));
  },
};

async function measureKey(key: Key, iterations: number): Promise<readonly Series[]> {
  const { name, shims } = KEYS[key];
  await using bench = await openSignBench(shims);
  await warmUp(bench, Math.min(WARM_UP, 150 * iterations));
  const loads = await measureLoads(bench, key, iterations);
  const lines = (take: (load: Load) => number) =>
    WAYS.map((way) => {
      const at = [...(loads.get(way) ?? [])];
      return lineOf(
        NAMES[way],
        null,
        at.map(([x, runs]) => ({ x, y: median(runs.map(take)) })),
      );
    });
  const by = shims === 1 ? "one shim" : `${shims} shims`;
  const what = `${name} by ${by}; a stock client has one request at a time, a native one ${DEPTH} waiting (of 64 clients ${depthOf(64)}), which its p99 waits behind`;
  const common = { what, x: X, on: bench.on() };
  return [
    {
      ...common,
      id: `curve-${key}-rate`,
      y: RATE,
      lines: lines((load) => (1000 * load.operations) / load.milliseconds),
    },
    { ...common, id: `curve-${key}-p99`, y: P99, lines: lines(({ p99 }) => p99 / 1000) },
  ];
}

/** The ways take turns at each number of clients, first forwards, then backwards. */
async function measureLoads({ arms }: SignBench, key: Key, iterations: number) {
  const milliseconds = Math.min(LONGEST, 25 * iterations);
  const loads = new Map<Way, Map<number, Load[]>>(WAYS.map((way) => [way, new Map()]));
  for (const clients of sizesFor(CLIENTS, iterations)) {
    for (let round = 0; round < Math.ceil(iterations / 16); round++) {
      for (const way of round % 2 === 0 ? WAYS : WAYS.toReversed()) {
        const load = await arms[way]({ key, clients, depth: depthOf(clients) }, milliseconds);
        const of = loads.get(way);
        of?.set(clients, [...(of.get(clients) ?? []), load]);
      }
    }
  }
  return loads;
}

function depthOf(clients: number): number {
  return Math.min(DEPTH, Math.floor(IN_FLIGHT / clients));
}
