import { closeSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { inspect } from "node:util";
import { describe, expect, test, vi } from "vitest";
import { MachineAudit } from "../../agent/audit/machine-audit.ts";
import { AgentError, STATE_PROBLEMS, type StateProblem } from "../../agent/errors.ts";
import { Refusal } from "../../agent/launch/environment.ts";
import { createStateVolume } from "../../agent/state-volume.ts";
import { toHex } from "../../policy/index.ts";
import { ANCHOR_INDEX, provisionRecords, writeAnchor } from "../../seal/index.ts";
import { native } from "../support/shim-fixture.ts";
import {
  append,
  ENTRY,
  KEY,
  OTHER_VOLUME,
  openVolumeBench,
  readToEnd,
  reasonsOf,
  VOLUME,
  type VolumeBench,
} from "../support/state-volume-bench.ts";

const bench = openVolumeBench();
const open = (...opening: Parameters<VolumeBench["open"]>) => bench().open(...opening);
const anchor = () => bench().anchor();
const anchoredLog = (records: number) => bench().anchoredLog(records);

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
    await writeAnchor(bench().tss, null);
    const { failure, audit } = await open();
    expect(failure).toBeNull();
    expect(audit.head().seq).toBe(3);
    expect(await anchor()).toEqual({ volumeId: VOLUME, ...audit.head() });
  });

  test("I8: before it is open nothing can be decided, because nothing can be written down", async () => {
    await expect(new MachineAudit().append(ENTRY, "written")).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
  });

  test("I8: a TPM without the anchor's index refuses, and no key is unsealed", async () => {
    await using index = await bench().tss.trFromTpmPublic(ANCHOR_INDEX);
    await bench().tss.nvUndefineSpace(index);
    const deliver = vi.fn(async () => undefined);
    const { failure, asked } = await open({ deliver });
    expect(reasonsOf(failure)).toEqual([
      expect.objectContaining({ code: "tpm-not-provisioned", item: "audit anchor" }),
    ]);
    expect(asked).toEqual([]);
    expect(deliver).not.toHaveBeenCalled();
    await provisionRecords(bench().tss);
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
      bench().segment,
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
    rmSync(bench().segment);
    expect(reasonsOf((await open()).failure)).toEqual([expect.objectContaining({ code: "audit-rolled-back" })]);
  });

  test("I8: an edited log is told from a shortened one", async () => {
    const lines = await anchoredLog(2);
    writeFileSync(bench().segment, `${lines.join("\n").replace("deny", "DENY")}\n`);
    expect((await open()).failure).toMatchObject({ code: "ERR_AUDIT_MALFORMED" });
  });

  test("I11: bytes of a last record that a power cut left unfinished are no rollback", async () => {
    await anchoredLog(2);
    const whole = readFileSync(bench().segment);
    writeFileSync(bench().segment, Buffer.concat([whole, Buffer.from('{"seq":3,"ti')]));
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
    bench().audits.push(audit);
    const given: unknown[] = [];
    const volume = createStateVolume({
      ...{ tss: bench().tss, native: counted, auditLog: bench().auditLog, audit, now: Date.now },
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
    expect(readFileSync(bench().segment).includes(KEY.subarray(2))).toBe(false);
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
