import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FileAuditLog } from "../../agent/audit/log.ts";
import { openAudit } from "../../agent/audit/open.ts";
import { verifyAudit } from "../../agent/audit/verify.ts";
import { ENTRY } from "../support/audit-fixture.ts";
import type { Suite } from "./bench.ts";
import { ownTime, ownTimeOfEach } from "./repeat.ts";
import { Measured, type Series, sizesFor } from "./series.ts";

const SIZES = [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000] as const;
/** Records that are appended one by one at each size, in runs of so many, and records of one reading. */
const BATCH = 600;
const RUN = 30;
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
      measured.add("append one", size, await appendTime(log, size));
      measured.add("read 100", size, 1000 * (await ownTime(4 * iterations, () => log.read(size / 2, PAGE))));
      const runs = size > 100_000 ? 1 : 5;
      log.close();
      measured.add("verify all", size, await ownTime(runs, () => verifyAudit(directory, new Map())));
      log = open();
      const restart = () => {
        log.close();
        log = open();
      };
      measured.add("start with it", size, await ownTime(runs, restart));
    }
  } finally {
    log.close();
  }
  const what =
    "A log on a disk, in segments of 4 MiB; on a machine the state volume ends it at some 90 000 records, of which the older ones then go";
  return [
    {
      ...{ id: "growth-audit", what: `${what}. The reading begins in the middle` },
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

/** Microseconds of each, one after the other, up to the size. */
function appendTime(log: FileAuditLog, size: number): Promise<number> {
  const runs = Math.floor((size - log.head().seq) / RUN);
  return ownTimeOfEach(RUN, runs, () => log.append(ENTRY, "written"));
}
