import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";
import { FileAuditLog } from "../../agent/audit/log.ts";
import {
  encodeCounters,
  parseCounters,
  readMirror,
  readTpmCounters,
  rollbackReasons,
  writeMirror,
} from "../../agent/counter-mirror.ts";
import { journal } from "../../agent/journal.ts";
import { IronclawError } from "../../policy/index.ts";
import { writeAnchor } from "../../seal/index.ts";
import { append, OTHER_VOLUME, openVolumeBench, reasonsOf, type VolumeBench } from "../support/state-volume-bench.ts";

const bench = openVolumeBench();
const open = (...opening: Parameters<VolumeBench["open"]>) => bench().open(...opening);
const anchor = () => bench().anchor();
const anchoredLog = (records: number) => bench().anchoredLog(records);

afterEach(() => void vi.useRealTimers());

describe("the anchor of a log that grows", () => {
  /** As many ticks of the clock as asked, and time for the disk's and the TPM's answer. */
  async function pass(milliseconds: number): Promise<void> {
    const flush = vi.spyOn(FileAuditLog.prototype, "flush");
    await vi.advanceTimersByTimeAsync(milliseconds);
    await Promise.allSettled(flush.mock.results.map(({ value }) => value));
    flush.mockRestore();
    await new Promise(setImmediate); // what is anchored once the records are on the disk
    await anchor(); // its command waits behind the one that the tick may have given
  }
  const anchoredSeq = async () => {
    const present = await anchor();
    return typeof present === "string" ? present : present.seq;
  };

  test("I8: follows within ten seconds, and is not written again while the log rests", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] });
    const { audit } = await open();
    await append(audit, 5);
    await pass(9_000);
    expect(await anchoredSeq()).toBe(0);
    await pass(1_500);
    expect(await anchoredSeq()).toBe(5);
    const write = vi.spyOn(bench().tss, "nvWrite");
    await pass(60_000);
    expect(write).not.toHaveBeenCalled();
    write.mockRestore();
  });

  test("I8: a TPM that refuses once is asked again", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] });
    const complaint = vi.spyOn(journal, "error").mockImplementation(() => undefined);
    const { audit } = await open();
    await append(audit, 1);
    const write = vi.spyOn(bench().tss, "nvWrite").mockRejectedValueOnce(new Error("busy"));
    await pass(10_500);
    expect(await anchoredSeq()).toBe(0);
    expect(complaint).toHaveBeenCalledTimes(1);
    await pass(10_500);
    expect(await anchoredSeq()).toBe(1);
    write.mockRestore();
    complaint.mockRestore();
  });

  test("I8: follows at once when ten thousand records came", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] });
    const { audit } = await open();
    await append(audit, 10_000);
    await pass(600);
    expect(await anchoredSeq()).toBe(10_000);
  });

  test("I8: is not moved any more once the log is closed", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] });
    const { audit } = await open();
    await append(audit, 2);
    audit.close();
    await writeAnchor(bench().tss, { volumeId: OTHER_VOLUME, seq: 9, hash: "09".repeat(32) });
    await pass(30_000);
    expect(await anchoredSeq()).toBe(9);
  });
});

describe("the counters on the volume", () => {
  const counters = () => readMirror(bench().directory);

  test("I2: are those of the TPM as the machine last saw it", async () => {
    await anchoredLog(1);
    expect(counters()).toEqual(await readTpmCounters(bench().tss));
    const before = counters()?.resetCount ?? 0;
    expect((await open()).failure).toBeNull();
    expect(counters()?.resetCount).toBe(before + 1);
  });

  test.each([
    ["epoch counter", { epoch: 1n, resetCount: -1 }],
    ["resetCount", { epoch: 0n, resetCount: 0 }],
  ])("I2: a TPM whose %s is behind them was put back, and is refused", async (item, ahead) => {
    await anchoredLog(2);
    const { epoch, resetCount, restartCount } = await readTpmCounters(bench().tss);
    // The opening below is one reset later.
    const boot = { resetCount: resetCount + 1 + ahead.resetCount, restartCount };
    writeMirror(bench().directory, { epoch: epoch + ahead.epoch, ...boot });
    const { failure } = await open();
    expect(reasonsOf(failure)).toEqual([expect.objectContaining({ code: "tpm-rolled-back", item })]);
  });

  test("I2: a TPM Restart leaves resetCount as it is and is no rollback; the same boot again is one", () => {
    const counters = { epoch: 16n, resetCount: 7, restartCount: 2 };
    expect(rollbackReasons(counters, { ...counters, restartCount: 3 })).toEqual([]);
    expect(rollbackReasons(counters, { ...counters, resetCount: 8, restartCount: 0 })).toEqual([]);
    for (const older of [counters, { ...counters, restartCount: 1 }, { ...counters, resetCount: 6, restartCount: 9 }])
      expect(rollbackReasons(counters, older)).toMatchObject([{ code: "tpm-rolled-back", item: "resetCount" }]);
  });

  test("I11: a volume without room for them is refused as state-full, and one that cannot be read as state-damaged", async () => {
    await anchoredLog(1);
    // A device that is always full in the new copy's place.
    symlinkSync("/dev/full", join(bench().directory, "counters.new"));
    expect(reasonsOf((await open()).failure)).toEqual([expect.objectContaining({ code: "state-full" })]);
    rmSync(join(bench().directory, "counters.new"));
    rmSync(join(bench().directory, "counters"));
    mkdirSync(join(bench().directory, "counters"));
    expect(reasonsOf((await open()).failure)).toEqual([expect.objectContaining({ code: "state-damaged" })]);
  });

  test("I2: a TPM that has lost its anchor was cleared: nothing is compared, and it is taken on", async () => {
    await anchoredLog(2);
    writeMirror(bench().directory, { epoch: 1000n, resetCount: 1_000_000, restartCount: 0 });
    await writeAnchor(bench().tss, null);
    expect((await open()).failure).toBeNull();
    expect(counters()).toEqual(await readTpmCounters(bench().tss));
  });

  test("I10: bytes that no agent wrote are damage, typed", async () => {
    await anchoredLog(1);
    for (const bytes of [
      "",
      "{}",
      '{"version":2,"epoch":"1","resetCount":1,"restartCount":0}',
      '{"version":1,"epoch":"-1","resetCount":1,"restartCount":0}',
      "x".repeat(5000),
    ]) {
      writeFileSync(join(bench().directory, "counters"), bytes);
      expect((await open()).failure).not.toBeNull();
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        try {
          expect(encodeCounters(parseCounters(bytes))).toEqual(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(IronclawError);
        }
      }),
    );
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 63n }), fc.nat(), fc.nat(), (epoch, resetCount, restartCount) => {
        const counters = { epoch, resetCount, restartCount };
        expect(parseCounters(encodeCounters(counters))).toEqual(counters);
      }),
    );
  });

  test("I11: a replacement that was cut off leaves the counters of before", async () => {
    await anchoredLog(1);
    const before = counters();
    writeFileSync(join(bench().directory, "counters.new"), '{"version":1,"epo');
    expect(counters()).toEqual(before);
    expect((await open()).failure).toBeNull();
  });
});
