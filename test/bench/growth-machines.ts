import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { type Enrolment, tpmName } from "../../attest/index.ts";
import { openSqliteStore, type VerifierStore } from "../../attest/service/index.ts";
import { toHex } from "../../policy/index.ts";
import { softEccKey } from "../support/evidence-maker.ts";
import type { SoftTpm } from "../support/soft-tpm.ts";
import { base64, openVerifierBench, type VerifierBench, VIEWER } from "../support/verifier-fixture.ts";
import { median, type Suite } from "./bench.ts";
import { threadTime } from "./decide.ts";
import { ownTime, ownTimeOfEach } from "./repeat.ts";
import { Measured, type Series, sizesFor } from "./series.ts";

const SIZES = [10, 30, 100, 300, 1000, 3000, 10_000] as const;
const LOOKUPS = 100;
/** Of the machine that has a TPM and reports. */
const REPORTER = "reporter";
const X = { name: "enrolled machines", unit: "" };

/** `growth-machines`: what is done for one machine among so many. `growth-machines-all`: what is done over all of them. */
export const machineGrowthSuite: Suite = {
  ids: ["growth-machines", "growth-machines-all"],
  run: async (wanted, { iterations }) => {
    // So few reports are kept that as many are there at each size.
    await using bench = await openVerifierBench({
      config: (config) => ({ ...config, retention: { ...config.retention, reportsPerMachine: 4 } }),
    });
    const tpm = await bench.enrol(REPORTER);
    let clock = 1_000_000n;
    const nextClock = () => {
      clock += 1000n;
      return clock;
    };
    const store = openSqliteStore(join(bench.folder, bench.config.store), bench.config.retention);
    try {
      const series = await measure(bench, store, { tpm, nextClock, iterations });
      return series.filter(({ id }) => wanted.has(id));
    } finally {
      await store.close();
    }
  },
};

interface Reporter {
  readonly tpm: SoftTpm;
  /** A TPM's clock goes on from report to report. */
  readonly nextClock: () => bigint;
  readonly iterations: number;
}

/** Records are written by the service's own store, into the file that it has open: the machines behind them have no TPM. */
async function measure(bench: VerifierBench, store: VerifierStore, reporter: Reporter): Promise<readonly Series[]> {
  const { iterations } = reporter;
  const measured = new Measured();
  const first = await store.machine(REPORTER);
  if (first === null) throw new Error("no reporter");
  let enrolled = 1;
  for (const size of sizesFor(SIZES, iterations)) {
    const times: number[] = [];
    for (; enrolled < size; enrolled++) times.push(await enrolTime(bench, store, first.enrolment, enrolled));
    measured.add("enrol one", size, median(times.slice(-LOOKUPS)));
    measured.add("find one", size, await findTime(store, size));
    measured.add("judge a report", size, 1000 * (await reportTime(bench, reporter)));
    measured.add("health", size, 1000 * (await ownTime(iterations, () => get(bench, "/healthz"))));
    measured.add("list all", size, await ownTime(5, () => get(bench, "/v1/machines")));
    measured.add("metrics", size, await ownTime(5, () => get(bench, "/metrics")));
    measured.add("sweep", size, await ownTime(iterations, () => bench.service.sweep()));
  }
  const what = "The verifier's SQLite store on a disk, as enrolment leaves its records";
  return [
    {
      id: "growth-machines",
      what: `${what}. Enrolling in processor time, without the disk's`,
      ...{ x: X, y: { name: "time", unit: "us" } },
      lines: measured.lines({
        ...{ "enrol one": "constant", "find one": "constant", "judge a report": "constant", health: "constant" },
      }),
    },
    {
      ...{ id: "growth-machines-all", what, x: X, y: { name: "time", unit: "ms" } },
      lines: measured.lines({ "list all": "linear", metrics: "linear", sweep: "constant" }),
    },
  ];
}

/** Microseconds of the processor. Keys and certificate are this machine's own: each is looked up among all others'. */
async function enrolTime(bench: VerifierBench, store: VerifierStore, like: Enrolment, index: number): Promise<number> {
  const random = () => toHex(new Uint8Array(randomBytes(32)));
  const { publicArea } = await softEccKey();
  const ak = { akPublic: base64(publicArea), akName: toHex(tpmName(publicArea)) };
  const enrolment = { ...like, ...ak, name: nameOf(index), ekName: `000b${random()}`, ekCertificateSha256: random() };
  return threadTime(1, async () => {
    const { kind } = await store.enrol(enrolment, bench.time.toISOString());
    if (kind !== "enrolled") throw new Error(kind);
  });
}

/** Microseconds of one, spread over all. */
function findTime(store: VerifierStore, size: number): Promise<number> {
  let at = 0;
  return ownTimeOfEach(LOOKUPS, 20, async () => {
    at += 1;
    if ((await store.machine(nameOf(1 + ((at * 7919) % (size - 1))))) === null) throw new Error("a machine is missing");
  });
}

/** Milliseconds from the report's arrival to the verdict. */
async function reportTime(bench: VerifierBench, { tpm, nextClock, iterations }: Reporter): Promise<number> {
  const times: number[] = [];
  for (let run = 0; run < iterations; run++) {
    const challenge = await bench.challenge(REPORTER);
    const report = await bench.report(tpm, challenge, { clock: { clock: nextClock() } });
    const judged = async () => {
      const { body } = await bench.send(challenge, report, VIEWER);
      if (body.tier !== "affirming") throw new Error(`a report is ${JSON.stringify(body)}`);
    };
    times.push(await ownTime(1, judged));
  }
  return Math.min(...times);
}

async function get(bench: VerifierBench, path: string): Promise<void> {
  const { status, text } = await bench.ask("GET", path, { token: VIEWER });
  if (status !== 200) throw new Error(`${path}: ${text}`);
}

const nameOf = (index: number) => `m${index}`;
