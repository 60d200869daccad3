import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { CHECKPOINT_PURPOSE, CheckpointTrust } from "../../agent/audit/checkpoint.ts";
import { AuditKeeper } from "../../agent/audit/keeper.ts";
import type { FileAuditLog } from "../../agent/audit/log.ts";
import { readAudit } from "../../agent/audit/verify.ts";
import { journal } from "../../agent/journal.ts";
import { TpmConnection } from "../../agent/tpm-connection.ts";
import { readAnchor, readFreeze, setFreeze, writeAnchor } from "../../seal/index.ts";
import { LOSING_FAULTS } from "../faults/tpm-answers.ts";
import { AuditBench, ENTRY } from "../support/audit-fixture.ts";
import { type Boot, type LaunchBench, openLaunchBench, type Provisioned } from "../support/launch-fixture.ts";
import { openReporter, type Reporter, report } from "../support/reporter.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

const VOLUME = new Uint8Array(16).fill(7);

let bench: LaunchBench;
let provisioned: Provisioned;
let booted: Boot;
let reporter: Reporter;
let audit: AuditBench;
let log: FileAuditLog;
let keeper: AuditKeeper;

beforeAll(async () => {
  vi.spyOn(journal, "write").mockReturnValue(undefined);
  bench = await openLaunchBench();
  provisioned = await bench.provision();
  booted = await bench.boot(provisioned);
  reporter = await openReporter(bench, booted);
  new TpmConnection(booted.tpm, { first: 1, longest: 10 }).begin();
});
afterAll(async () => {
  vi.restoreAllMocks();
  await booted?.[Symbol.asyncDispose]();
  await bench?.[Symbol.asyncDispose]();
});
beforeEach(async () => {
  const key = await booted.tpm.certifiedKey(reporter.sources.ak, CHECKPOINT_PURPOSE);
  audit = new AuditBench();
  log = audit.open();
  const anchor = (head: { seq: number; hash: string }) => writeAnchor(booted.tpm.tss, { volumeId: VOLUME, ...head });
  keeper = new AuditKeeper({ log, anchor, key: () => key });
});
afterEach(() => {
  log.close();
  audit.remove();
});

/** Does this to the next command of the kind; says how many of them came, whatever was done to them. */
function fail(code: number, fault: (typeof LOSING_FAULTS)[number]): () => number {
  let seen = 0;
  bench.bus.arm((command) => (command.client === "agent" && command.code === code && seen++ === 0 ? fault : null));
  return () => seen;
}

const works = () =>
  expect
    .poll(() =>
      booted.tpm.tss.getRandom(1).then(
        () => true,
        () => false,
      ),
    )
    .toBe(true);

describe.each(LOSING_FAULTS)("a machine that serves, whose TPM answers one command with $name", (fault) => {
  test("I9: makes the next report, which verifies, and repeats nothing by itself", async () => {
    const quotes = fail(TPM_CC.quote, fault);
    await expect(report(reporter)).rejects.toThrow("Quote");
    await works();
    expect(quotes()).toBe(1);
    expect((await report(reporter)).claims.measured.launch).toBe("serving");
  });

  test.each(["sign", "nvWrite", "contextLoad"] as const)(
    "I8: signs and anchors the log at the next turn, where it was at %s",
    async (command) => {
      await log.append(ENTRY, "written");
      fail(TPM_CC[command], fault);
      await keeper.settle();
      await works();
      await keeper.settle();
      bench.bus.arm();
      expect(await readAnchor(booted.tpm.tss)).toMatchObject({ kind: "anchor", anchor: log.durableHead() });
      const trust = new CheckpointTrust(reporter.sources.ak.publicArea);
      for (const record of readAudit(audit.directory, 1, 100)) await trust.add(record, "");
      expect(trust.findings).toMatchObject({ certified: true });
      expect(trust.findings.covers).toBeGreaterThan(0);
    },
  );

  test("a freeze is an error, is not repeated by itself, and can be asked for again", async () => {
    const bits = fail(TPM_CC.nvSetBits, fault);
    await expect(setFreeze(booted.tpm.tss, 2n)).rejects.toThrow("NV_SetBits");
    await works();
    expect(bits()).toBe(1);
    await setFreeze(booted.tpm.tss, 2n);
    expect(await readFreeze(booted.tpm.tss)).toMatchObject({ kind: "bits", bits: 2n });
  });
});

test("nothing is left in a TPM without a resource manager but the attestation key", () => {
  expect(bench.bus.held("agent")).toHaveLength(1);
});
