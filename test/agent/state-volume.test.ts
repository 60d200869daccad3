import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { FileAuditLog } from "../../agent/audit/log.ts";
import { MachineAudit } from "../../agent/audit/machine-audit.ts";
import type { AuditEntry } from "../../agent/audit/record.ts";
import {
  encodeCounters,
  parseCounters,
  readMirror,
  readTpmCounters,
  rollbackReasons,
  writeMirror,
} from "../../agent/counter-mirror.ts";
import { AgentError, STATE_PROBLEMS, type StateProblem } from "../../agent/errors.ts";
import { journal } from "../../agent/journal.ts";
import { Refusal } from "../../agent/launch/environment.ts";
import type { Spawner } from "../../agent/spawner-client.ts";
import { createStateVolume } from "../../agent/state-volume.ts";
import { IronclawError, toHex } from "../../policy/index.ts";
import { ANCHOR_INDEX, type MachineTpm, openTpm, provisionRecords, readAnchor, writeAnchor } from "../../seal/index.ts";
import { NATIVE_DIRECTORY, native } from "../support/shim-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";

const VOLUME = Uint8Array.from({ length: 16 }, (_, index) => 0xa0 + index);
const OTHER_VOLUME = new Uint8Array(16).fill(7);
/** u16 length, then 64 and 32 bytes, as the unsealer writes it. */
const KEY = Uint8Array.from({ length: 98 }, (_, index) => (index === 0 ? 0 : index === 1 ? 96 : (index * 11) & 0xff));

let machine: SoftwareTpm;
let tpm: MachineTpm;
let directory: string;
let auditLog: string;
let segment: string;
const audits: MachineAudit[] = [];

beforeAll(async () => {
  machine = await startSwtpm({ endorsement: "none" });
  tpm = await openTpm({ tcti: machine.tcti, nativeDirectory: NATIVE_DIRECTORY });
  await provisionRecords(tpm.tss);
});
afterAll(async () => {
  await tpm.close();
  await machine.stop();
});
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "ironclaw-volume-"));
  auditLog = join(directory, "audit");
  segment = join(auditLog, "0000000000000001.log");
  await writeAnchor(tpm.tss, null);
});
afterEach(() => {
  vi.useRealTimers();
  for (const audit of audits.splice(0)) audit.close();
  rmSync(directory, { recursive: true, force: true });
});

interface Asked {
  readonly format: boolean;
  /** All that came out of the pipe, up to its end. */
  readonly key: Uint8Array;
}

interface Opening {
  readonly volumeId?: Uint8Array;
  readonly openState?: Spawner["openState"];
  readonly deliver?: (sink: number) => Promise<void>;
}

/** A boot of the machine: its TPM is reset, and counts that. */
async function powerCycle(): Promise<void> {
  await tpm.close();
  await machine.restart();
  tpm = await openTpm({ tcti: machine.tcti, nativeDirectory: NATIVE_DIRECTORY });
}

/** One opening, in a boot of its own, with a spawner that takes the key and says which volume it is. */
async function open({ volumeId = VOLUME, openState, deliver }: Opening = {}) {
  await powerCycle();
  const audit = new MachineAudit();
  audits.push(audit);
  const asked: Asked[] = [];
  const fake: Spawner["openState"] = async ({ format }, keyFd) => {
    asked.push({ format, key: readToEnd(keyFd) });
    return { formatted: format, volumeId, bytes: 1n << 27n };
  };
  const volume = createStateVolume({
    ...{ tss: tpm.tss, native: native(), auditLog, audit, now: () => Date.parse("2027-01-01T00:00:00Z") },
    spawner: { openState: openState ?? fake },
  });
  const failure = await volume.open(deliver ?? (async (sink) => void writeSync(sink, KEY))).then(
    () => null,
    (error: unknown) => error,
  );
  return { audit, asked, failure };
}

function readToEnd(fd: number): Uint8Array {
  const parts: Buffer[] = [];
  for (;;) {
    const buffer = Buffer.alloc(4096);
    const length = readSync(fd, buffer); // blocks for ever while a writing end is left open
    if (length === 0) return Uint8Array.from(Buffer.concat(parts));
    parts.push(buffer.subarray(0, length));
  }
}

const anchor = async () => {
  const state = await readAnchor(tpm.tss);
  return state.kind === "anchor" ? state.anchor : state.kind;
};
const reasonsOf = (failure: unknown) => (failure instanceof Refusal ? failure.reasons : failure);

const ENTRY: AuditEntry = {
  ...{ caller: null, scope: "release-signing", key: null, mechanism: null, operation: "connect" },
  ...{ inputDigest: null, decision: "deny", step: "caller", reason: "unknown", approvals: [] },
};
/** Records of which the last, and with it all, is on the disk. */
async function append(audit: MachineAudit, records: number): Promise<void> {
  for (let record = 1; record < records; record++) await audit.append(ENTRY, "written");
  await audit.append(ENTRY, "durable");
}

/** A machine whose volume has a log of so many records, anchored at its end. */
async function anchoredLog(records: number): Promise<readonly string[]> {
  const { audit, failure } = await open();
  expect(failure).toBeNull();
  await append(audit, records);
  await writeAnchor(tpm.tss, { volumeId: VOLUME, ...audit.head() });
  audit.close();
  return readFileSync(segment, "utf8").trimEnd().split("\n");
}

describe("the first volume of a machine", () => {
  test("I8: is asked for with format, and the TPM is told which one it is", async () => {
    const { asked, failure, audit } = await open();
    expect(failure).toBeNull();
    expect(asked).toEqual([{ format: true, key: KEY }]);
    expect(await anchor()).toEqual({ volumeId: VOLUME, ...audit.head() });
    expect(audit.head().seq).toBe(0);
  });

  test("I8: one that is there already and that the TPM has never seen is taken as it is", async () => {
    await anchoredLog(3);
    await writeAnchor(tpm.tss, null);
    const { failure, audit } = await open();
    expect(failure).toBeNull();
    expect(audit.head().seq).toBe(3);
    expect(await anchor()).toEqual({ volumeId: VOLUME, ...audit.head() });
  });

  test("I8: before it is open nothing can be decided, because nothing can be written down", async () => {
    await expect(new MachineAudit().append(ENTRY, "written")).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
  });

  test("I8: a TPM without the anchor's index refuses, and no key is unsealed", async () => {
    await using index = await tpm.tss.trFromTpmPublic(ANCHOR_INDEX);
    await tpm.tss.nvUndefineSpace(index);
    const deliver = vi.fn(async () => undefined);
    const { failure, asked } = await open({ deliver });
    expect(reasonsOf(failure)).toEqual([
      expect.objectContaining({ code: "tpm-not-provisioned", item: "audit anchor" }),
    ]);
    expect(asked).toEqual([]);
    expect(deliver).not.toHaveBeenCalled();
    await provisionRecords(tpm.tss);
  });
});

describe("the volume that the TPM knows", () => {
  test("I8: is opened without format, and its log goes on where it was", async () => {
    await anchoredLog(2);
    const { asked, failure, audit } = await open();
    expect(failure).toBeNull();
    expect(asked).toEqual([{ format: false, key: KEY }]);
    await append(audit, 1);
    expect(audit.head().seq).toBe(3);
  });

  test("I8: a log that came further than its anchor is accepted, and anchored where it is", async () => {
    const { audit } = await open();
    await append(audit, 4);
    audit.close();
    const { failure, audit: again } = await open();
    expect(failure).toBeNull();
    expect(again.head().seq).toBe(4);
    expect(await anchor()).toEqual({ volumeId: VOLUME, ...again.head() });
  });

  test("I8: another volume is refused as state-swapped, and the anchor stays", async () => {
    await anchoredLog(2);
    const before = await anchor();
    const { failure, audit } = await open({ volumeId: OTHER_VOLUME });
    expect(reasonsOf(failure)).toEqual([
      { code: "state-swapped", item: "state volume", expected: toHex(VOLUME), got: toHex(OTHER_VOLUME) },
    ]);
    expect(await anchor()).toEqual(before);
    await expect(append(audit, 1)).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
  });

  test.each([
    ["one record short", (lines: readonly string[]) => lines.slice(0, -1)],
    ["empty", () => []],
  ])("I8: a log that is %s is refused as audit-rolled-back, and the anchor stays", async (_, cut) => {
    const lines = await anchoredLog(3);
    const before = await anchor();
    writeFileSync(
      segment,
      cut(lines)
        .map((line) => `${line}\n`)
        .join(""),
    );
    const { failure } = await open();
    expect(reasonsOf(failure)).toEqual([
      expect.objectContaining({ code: "audit-rolled-back", item: "audit log", expected: expect.stringContaining("3") }),
    ]);
    expect(await anchor()).toEqual(before);
  });

  test("I8: a log that is missing is refused as audit-rolled-back", async () => {
    await anchoredLog(1);
    rmSync(segment);
    expect(reasonsOf((await open()).failure)).toEqual([expect.objectContaining({ code: "audit-rolled-back" })]);
  });

  test("I8: an edited log is told from a shortened one", async () => {
    const lines = await anchoredLog(2);
    writeFileSync(segment, `${lines.join("\n").replace("deny", "DENY")}\n`);
    expect((await open()).failure).toMatchObject({ code: "ERR_AUDIT_MALFORMED" });
  });

  test("I11: bytes of a last record that a power cut left unfinished are no rollback", async () => {
    await anchoredLog(2);
    const whole = readFileSync(segment);
    writeFileSync(segment, Buffer.concat([whole, Buffer.from('{"seq":3,"ti')]));
    const { failure, audit } = await open();
    expect(failure).toBeNull();
    expect(audit.head().seq).toBe(3);
    expect(audit.read(3, 1).records).toMatchObject([{ statement: { kind: "repair", bytes: 12 } }]);
  });
});

describe("a volume that cannot be opened", () => {
  test.each(STATE_PROBLEMS)("I8: is refused as %s, and the anchor stays", async (state: StateProblem) => {
    await anchoredLog(1);
    const before = await anchor();
    const openState = () =>
      Promise.reject(new AgentError("ERR_STATE_VOLUME", "state volume", { state, expected: "a volume", got: state }));
    const { failure } = await open({ openState });
    expect(reasonsOf(failure)).toEqual([expect.objectContaining({ code: state, item: "state volume" })]);
    expect(await anchor()).toEqual(before);
  });

  test("I3: a spawner that fails otherwise ends the opening with its own error", async () => {
    const openState = () => Promise.reject(new AgentError("ERR_SPAWNER", "open-state", { expected: "yes", got: "no" }));
    expect((await open({ openState })).failure).toMatchObject({ code: "ERR_SPAWNER" });
  });
});

describe("the volume's key", () => {
  test("I4: goes into the pipe and nowhere else, and both ends are closed afterwards", async () => {
    const ends = new Set<number>();
    const real = native();
    const counted = {
      pipe: () => {
        const pair = real.pipe();
        for (const fd of pair) ends.add(fd);
        return pair;
      },
      closeFd: (fd: number) => {
        ends.delete(fd);
        real.closeFd(fd);
      },
    };
    const audit = new MachineAudit();
    audits.push(audit);
    const given: unknown[] = [];
    const volume = createStateVolume({
      ...{ tss: tpm.tss, native: counted, auditLog, audit, now: Date.now },
      spawner: {
        openState: async (...asked) => {
          given.push(asked);
          expect(ends.size).toBe(1); // the reading end alone
          expect(readToEnd(asked[1])).toEqual(KEY);
          return { formatted: true, volumeId: VOLUME, bytes: 1n << 27n };
        },
      },
    });
    await volume.open(async (sink) => void writeSync(sink, KEY));
    expect(ends.size).toBe(0);
    const told = inspect({ given, audit, volume }, { depth: 12, maxArrayLength: null, showHidden: true });
    for (const form of [toHex(KEY.subarray(2)), Buffer.from(KEY.subarray(2)).toString("base64")])
      expect(told).not.toContain(form);
    expect(readFileSync(segment).includes(KEY.subarray(2))).toBe(false);
  });

  test("I4: when it does not come, the pipe is closed and the spawner is not asked", async () => {
    const sinks: number[] = [];
    const refusal = new Refusal([{ code: "tpm-refused", item: "state", expected: "a key", got: "none" }]);
    const { failure, asked } = await open({
      deliver: async (sink) => {
        sinks.push(sink);
        throw refusal;
      },
    });
    expect(failure).toBe(refusal);
    expect(asked).toEqual([]);
    expect(() => closeSync(sinks[0] ?? -1)).toThrow(/EBADF/);
    expect(await anchor()).toBe("none");
  });
});

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
    const write = vi.spyOn(tpm.tss, "nvWrite");
    await pass(60_000);
    expect(write).not.toHaveBeenCalled();
    write.mockRestore();
  });

  test("I8: a TPM that refuses once is asked again", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] });
    const complaint = vi.spyOn(journal, "error").mockImplementation(() => undefined);
    const { audit } = await open();
    await append(audit, 1);
    const write = vi.spyOn(tpm.tss, "nvWrite").mockRejectedValueOnce(new Error("busy"));
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
    await writeAnchor(tpm.tss, { volumeId: OTHER_VOLUME, seq: 9, hash: "09".repeat(32) });
    await pass(30_000);
    expect(await anchoredSeq()).toBe(9);
  });
});

describe("the counters on the volume", () => {
  const counters = () => readMirror(directory);

  test("I2: are those of the TPM as the machine last saw it", async () => {
    await anchoredLog(1);
    expect(counters()).toEqual(await readTpmCounters(tpm.tss));
    const before = counters()?.resetCount ?? 0;
    expect((await open()).failure).toBeNull();
    expect(counters()?.resetCount).toBe(before + 1);
  });

  test.each([
    ["epoch counter", { epoch: 1n, resetCount: -1 }],
    ["resetCount", { epoch: 0n, resetCount: 0 }],
  ])("I2: a TPM whose %s is behind them was put back, and is refused", async (item, ahead) => {
    await anchoredLog(2);
    const { epoch, resetCount, restartCount } = await readTpmCounters(tpm.tss);
    // The opening below is one reset later.
    const boot = { resetCount: resetCount + 1 + ahead.resetCount, restartCount };
    writeMirror(directory, { epoch: epoch + ahead.epoch, ...boot });
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
    symlinkSync("/dev/full", join(directory, "counters.new"));
    expect(reasonsOf((await open()).failure)).toEqual([expect.objectContaining({ code: "state-full" })]);
    rmSync(join(directory, "counters.new"));
    rmSync(join(directory, "counters"));
    mkdirSync(join(directory, "counters"));
    expect(reasonsOf((await open()).failure)).toEqual([expect.objectContaining({ code: "state-damaged" })]);
  });

  test("I2: a TPM that has lost its anchor was cleared: nothing is compared, and it is taken on", async () => {
    await anchoredLog(2);
    writeMirror(directory, { epoch: 1000n, resetCount: 1_000_000, restartCount: 0 });
    await writeAnchor(tpm.tss, null);
    expect((await open()).failure).toBeNull();
    expect(counters()).toEqual(await readTpmCounters(tpm.tss));
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
      writeFileSync(join(directory, "counters"), bytes);
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
    writeFileSync(join(directory, "counters.new"), '{"version":1,"epo');
    expect(counters()).toEqual(before);
    expect((await open()).failure).toBeNull();
  });
});
