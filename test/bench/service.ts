import { Agent, request } from "node:http";
import { text } from "node:stream/consumers";
import type { Challenge } from "../../attest/index.ts";
import type { SoftTpm } from "../support/soft-tpm.ts";
import { base64, openVerifierBench, type VerifierBench } from "../support/verifier-fixture.ts";
import { median, percentile99, type Row, rateRow, type Suite, timeRow } from "./bench.ts";
import { eventsOf, type Held, hold, judge } from "./verify.ts";

const CLIENTS = 16;
/** As many challenges as a machine may have open. */
const REPORTS_EACH = 8;
const LOG_KIB = 16;
const RATE = {
  id: "verifier-16",
  what: "reports a second that 16 machines get judged over HTTP, vs the library alone in one thread",
  target: 0.33,
};
const P99 = {
  id: "verifier-p99-16",
  what: "from request to verdict, 99 of 100 reports, 16 machines at once, in ms",
  target: 250,
};

/** The verifier service over loopback, its clients in the same process: they take their share of the processor. */
export const serviceSuite: Suite = {
  ids: [RATE.id, P99.id],
  run: async (wanted, { iterations }) => {
    await using bench = await openVerifierBench({
      // All clients come from one address, and the service's clock stands still: nobody's bucket fills again.
      config: (config) => ({
        ...config,
        limits: { ...config.limits, workers: 2, perPeer: { perMinute: 1, burst: 1_000_000 } },
      }),
    });
    const address = new URL(`http://${await bench.service.listen()}`);
    const machines = await enrolMachines(bench);
    const held = await hold(LOG_KIB);
    const rates: { readonly ours: number[]; readonly peer: number[] } = { ours: [], peer: [] };
    const latencies: number[] = [];
    for (let round = -1; round < Math.ceil(iterations / 8); round++) {
      const batch = await prepare(bench, machines, round + 2);
      const { rate, times } = await sendAll(address, batch);
      const alone = await judgeAlone(held);
      if (round < 0) continue;
      rates.ours.push(rate);
      rates.peer.push(alone);
      latencies.push(...times);
    }
    const rows: readonly Row[] = [
      rateRow(RATE, { ours: median(rates.ours), peer: median(rates.peer) }),
      timeRow(P99, { ours: percentile99(latencies), peer: 1 }),
    ];
    return rows.filter(({ id }) => wanted.has(id));
  },
};

interface Machine {
  readonly name: string;
  readonly tpm: SoftTpm;
}

async function enrolMachines(bench: VerifierBench): Promise<readonly Machine[]> {
  const machines: Machine[] = [];
  for (let index = 0; index < CLIENTS; index++) {
    const name = `m${index}`;
    machines.push({ name, tpm: await bench.enrol(name) });
  }
  return machines;
}

interface Prepared {
  readonly challenge: Challenge;
  readonly report: Uint8Array;
}

/** What the machines do before they send: no part of what is measured. Each report's clock is later than the one before. */
async function prepare(
  bench: VerifierBench,
  machines: readonly Machine[],
  round: number,
): Promise<readonly (readonly Prepared[])[]> {
  const events = eventsOf(LOG_KIB * 1024, 0);
  const batch: Prepared[][] = [];
  for (const { name, tpm } of machines) {
    const reports: Prepared[] = [];
    for (let index = 0; index < REPORTS_EACH; index++) {
      const challenge = await bench.challenge(name);
      const clock = { clock: BigInt(1_000_000 * round + 1000 * index) };
      reports.push({ challenge, report: await bench.report(tpm, challenge, { events, clock }) });
    }
    batch.push(reports);
  }
  return batch;
}

async function sendAll(address: URL, batch: readonly (readonly Prepared[])[]) {
  const times: number[] = [];
  const start = performance.now();
  await Promise.all(
    batch.map(async (reports) => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      for (const prepared of reports) {
        const began = performance.now();
        await send(address, agent, prepared);
        times.push(performance.now() - began);
      }
      agent.destroy();
    }),
  );
  return { rate: (1000 * times.length) / (performance.now() - start), times };
}

function send(address: URL, agent: Agent, { challenge, report }: Prepared): Promise<void> {
  return new Promise((settle, reject) => {
    const headers = { "content-type": "application/cmw+cbor", "ironclaw-nonce": base64(challenge.nonce) };
    const sent = request(new URL("/v1/evidence", address), { method: "POST", agent, headers }, async (response) => {
      const body = await text(response);
      if (JSON.parse(body).tier === "affirming") settle();
      else reject(new Error(`a report is not affirmed: ${response.statusCode} ${body}`));
    });
    sent.on("error", reject).end(report);
  });
}

/** Reports a second. */
async function judgeAlone(held: Held): Promise<number> {
  const start = performance.now();
  for (let index = 0; index < CLIENTS * REPORTS_EACH; index++) await judge(held);
  return (1000 * CLIENTS * REPORTS_EACH) / (performance.now() - start);
}
