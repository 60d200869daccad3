import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FileAuditLog } from "../../agent/audit/log.ts";
import { openAudit } from "../../agent/audit/open.ts";
import { verifyAudit } from "../../agent/audit/verify.ts";
import { ENTRY } from "../support/audit-fixture.ts";
import { median, type Suite } from "./bench.ts";
import { threadTime } from "./decide.ts";
import { timesOf } from "./repeat.ts";
import { Measured, type Series, sizesFor } from "./series.ts";

const SIZES = [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000] as const;
/** Records that are timed at each size, and records of one reading. */
const BATCH = 300;
const PAGE = 100;
/** As many as one write takes. */
const GROUP = 64;
const X = { name: "records", unit: "" };

/** `growth-audit`: what one more record and one reading cost. `growth-audit-open`: what verifying a log and starting with it cost. */
export const auditGrowthSuite: Suite = {
  ids: ["growth-audit", "growth-audit-open"],
  run: async (wanted, { iterations }) => {
    const directory = mkdtempSync(join(tmpdir(), "ironclaw-growth-"));
    try {
      const series = await measure(join(directory, "log"), iterations);
      return series.filter(({ id }) => wanted.has(id));
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
};

/** One log that grows, on a disk. At each size it is verified, closed and opened as a restart does it. */
async function measure(directory: string, iterations: number): Promise<readonly Series[]> {
  const open = () => openAudit({ directory, now: Date.now, anchor: null });
  const measured = new Measured();
  let log = open();
  try {
    for (const size of sizesFor(SIZES, iterations)) {
      await fill(log, size - BATCH);
      measured.add("append one", size, median(await appendTimes(log, size)));
      measured.add("read 100", size, 1000 * median(await timesOf(20, async () => log.read(size / 2, PAGE))));
      const runs = size > 100_000 ? 1 : 3;
      log.close();
      measured.add("verify all", size, median(await timesOf(runs, async () => verifyAudit(directory, new Map()))));
      log = open();
      const restart = async () => {
        log.close();
        log = open();
      };
      measured.add("start with it", size, median(await timesOf(runs, restart)));
    }
  } finally {
    log.close();
  }
  const what =
    "A log on a disk, in segments of 4 MiB; on a machine the state volume ends it at some 90 000 records, of which the older ones then go";
  return [
    {
      ...{ id: "growth-audit", what: `${what}. Appending in processor time, the reading begins in the middle` },
      ...{ x: X, y: { name: "time", unit: "us" } },
      lines: measured.lines({ "append one": "constant", "read 100": "constant" }),
    },
    {
      ...{ id: "growth-audit-open", what, x: X, y: { name: "time", unit: "ms" } },
      lines: measured.lines({ "verify all": "linear", "start with it": "linear" }),
    },
  ];
}

async function fill(log: FileAuditLog, records: number): Promise<void> {
  while (log.head().seq < records) {
    const count = Math.min(GROUP, records - log.head().seq);
    await Promise.all(Array.from({ length: count }, () => log.append(ENTRY, "written")));
  }
}

/** Microseconds of the processor for each, up to the size. */
async function appendTimes(log: FileAuditLog, size: number): Promise<readonly number[]> {
  const times: number[] = [];
  while (log.head().seq < size) times.push(await threadTime(BATCH / 10, () => log.append(ENTRY, "written")));
  return times;
}
