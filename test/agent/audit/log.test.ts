import { appendFileSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync, writeSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { inputDigest } from "../../../agent/audit/log.ts";
import { EMPTY_HEAD, encodeRecord, verifyLine } from "../../../agent/audit/record.ts";
import type { AuditStatement } from "../../../agent/audit/statement.ts";
import { readAudit } from "../../../agent/audit/verify.ts";
import { AuditBench, codeOf, ENTRY, errorOf, START } from "../../support/audit-fixture.ts";

let bench: AuditBench;
beforeEach(() => {
  bench = new AuditBench();
});
afterEach(() => bench.remove());

describe("audit log", () => {
  it("I11: the durable head is the last record that a sync covered, and stays when a sync fails", async () => {
    const syncs: { readonly end: () => void; readonly fail: () => void }[] = [];
    const sync = () =>
      new Promise<void>((resolve, reject) => syncs.push({ end: resolve, fail: () => reject(new Error("EIO")) }));
    const log = bench.open({ files: { sync } });
    const heads = () => [log.head().seq, log.durableHead().seq];
    await log.append(ENTRY, "written");
    expect(heads()).toEqual([1, 0]);
    const second = log.append(ENTRY, "durable");
    await nextTurn();
    const third = log.append(ENTRY, "durable"); // written while the sync for the second is under way
    await nextTurn();
    expect(heads()).toEqual([3, 0]);
    syncs[0]?.end();
    await second;
    expect(heads()).toEqual([3, 2]);
    syncs[1]?.fail();
    await expect(third).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
    expect(heads()).toEqual([3, 2]);
    log.close();
    expect(bench.open().durableHead().seq).toBe(3);
  });

  it("I8: what is appended in one turn is written at once, in its order, and nobody hears before", async () => {
    const writes: number[] = [];
    const write = (fd: number, bytes: Uint8Array) => {
      writes.push(bytes.filter((byte) => byte === 0x0a).length);
      return writeSync(fd, bytes);
    };
    const log = bench.open({ files: { write } });
    const heard: number[] = [];
    const all = Array.from({ length: 70 }, (_, index) =>
      log.append({ ...ENTRY, reason: `rule ${index}` }, "written").then(({ seq }) => heard.push(seq)),
    );
    // The first 64 go at once; those behind them with the end of the turn.
    expect([writes, heard]).toEqual([[64], []]);
    await Promise.all(all);
    expect(writes).toEqual([64, 6]);
    expect(heard).toEqual(Array.from({ length: 70 }, (_, index) => index + 1));
    log.close();
    expect(readAudit(bench.directory, 1, 70).map(({ reason }) => reason)).toEqual(
      Array.from({ length: 70 }, (_, index) => `rule ${index}`),
    );
  });

  it("I8: records that wait when the log is closed are written, and one that comes later is refused", async () => {
    const log = bench.open();
    const before = log.append(ENTRY, "written");
    log.close();
    expect((await before).seq).toBe(1);
    await expect(log.append(ENTRY, "written")).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
    expect(bench.open().head().seq).toBe(1);
  });

  it("I8: a write that fails fails every record of its group, and none of them is acknowledged", async () => {
    const log = bench.open({ files: { write: (_fd, bytes) => bytes.length - 1 } });
    const outcomes = await Promise.allSettled([1, 2, 3].map(() => log.append(ENTRY, "written")));
    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
    expect(log.head().seq).toBe(0);
    log.close();
  });

  it("I8: a log goes on where it ended", async () => {
    const head = await bench.write(3);
    const log = bench.open({ anchor: head });
    expect(log.head()).toEqual(head);
    expect(log.repairedBytes).toBe(0);
    expect((await log.append(ENTRY, "durable")).seq).toBe(4);
    log.close();
    expect(readAudit(bench.directory, 2, 2).map(({ seq, reason }) => [seq, reason])).toEqual([
      [2, "rule 1"],
      [3, "rule 2"],
    ]);
    expect(bench.open().head().seq).toBe(4);
  });

  it("I8: the first line has the documented bytes and hash", async () => {
    const log = bench.open();
    await log.append(
      { ...ENTRY, caller: null, decision: "deny", step: "caller", reason: "the peer could not be identified" },
      "written",
    );
    log.close();
    const body =
      `{"seq":1,"time":"2027-01-15T08:00:00.000Z","caller":null,"scope":"release-signing","key":"release-ec",` +
      `"mechanism":"CKM_ECDSA","operation":"sign","inputDigest":"${ENTRY.inputDigest}","decision":"deny","step":"caller",` +
      `"reason":"the peer could not be identified","approvals":[],"statement":null,"prev":"${"0".repeat(64)}"`;
    const hash = inputDigest(new TextEncoder().encode(`ironclaw-audit-2\n${body}}`)).slice("sha256:".length);
    expect(readFileSync(bench.path(), "utf8")).toBe(`${body},"hash":"${hash}"}\n`);
  });

  it.each<[string, (lines: readonly string[]) => readonly string[]]>([
    [
      "an edited record",
      (lines) => lines.map((line, index) => (index === 1 ? line.replace("rule 1", "rule 9") : line)),
    ],
    [
      "an edited last record",
      (lines) => lines.map((line, index) => (index === 3 ? line.replace("allow", "deny") : line)),
    ],
    ["a removed record", (lines) => lines.filter((_, index) => index !== 1)],
    ["a removed first record", (lines) => lines.slice(1)],
    ["exchanged records", ([a = "", b = "", ...rest]) => [b, a, ...rest]],
    ["a doubled record", (lines) => lines.flatMap((line) => [line, line])],
    ["an empty line", (lines) => ["", ...lines]],
    ["the same record written with white space", (lines) => lines.map((line) => line.replace(",", ", "))],
    ["a line that never ends", () => ["x".repeat(10_000)]],
  ])("I8: a log with %s is refused", async (_what, change) => {
    await bench.write(4);
    bench.rewrite(change);
    expect(codeOf(() => bench.open())).toBe("ERR_AUDIT_MALFORMED");
  });

  it("I8: a log that ends before its anchor is refused, and so is another log", async () => {
    const head = await bench.write(4);
    bench.rewrite((lines) => lines.slice(0, 2));
    expect(codeOf(() => bench.open({ anchor: head }))).toBe("ERR_AUDIT_ROLLED_BACK");
    expect(codeOf(() => bench.open({ anchor: { seq: 2, hash: head.hash } }))).toBe("ERR_AUDIT_ROLLED_BACK");
    rmSync(bench.path());
    expect(codeOf(() => bench.open({ anchor: head }))).toBe("ERR_AUDIT_ROLLED_BACK");
    expect(codeOf(() => bench.open({ anchor: EMPTY_HEAD }))).toBe("none");
  });

  it("I8: a torn last line is replaced by a record that says so, and the log goes on", async () => {
    await bench.write(2);
    appendFileSync(bench.path(), '{"seq":3,"ti');
    const log = bench.open();
    expect(log.repairedBytes).toBe(12);
    expect((await log.append(ENTRY, "written")).seq).toBe(4);
    log.close();
    expect(readAudit(bench.directory, 3, 1)).toMatchObject([
      { operation: "repair", statement: { kind: "repair", bytes: 12 } },
    ]);
    expect(bench.open().repairedBytes).toBe(0);
  });

  it("I8: a write that was cut after any of its bytes is repaired, and no whole record is lost", async () => {
    const head = await bench.write(2);
    const whole = readFileSync(bench.path());
    const bare = { caller: null, key: null, mechanism: null, inputDigest: null, scope: "s", reason: "r" };
    const { line } = encodeRecord({ ...ENTRY, ...bare }, head, new Date(START).toISOString());
    for (let cut = 1; cut < line.length; cut += 1) {
      writeFileSync(bench.path(), Buffer.concat([whole, line.subarray(0, cut)]));
      const log = bench.open({ files: { syncNow: () => undefined } });
      expect([log.repairedBytes, log.head().seq]).toEqual([cut, 3]);
      log.close();
    }
    expect(readAudit(bench.directory, 1, 10).map(({ operation }) => operation)).toEqual(["sign", "sign", "repair"]);
    writeFileSync(bench.path(), Buffer.concat([whole, line]));
    const log = bench.open();
    expect([log.repairedBytes, log.head().seq]).toEqual([0, 3]);
    log.close();
  });

  it("I8: after a failed or short write nothing can be appended any more", async () => {
    for (const write of [
      () => {
        throw new Error("ENOSPC");
      },
      (_fd: number, bytes: Uint8Array) => bytes.length - 1,
    ]) {
      let broken = true;
      const log = bench.open({ files: { write: (fd, bytes) => (broken ? write(fd, bytes) : bytes.length) } });
      await expect(log.append(ENTRY, "written")).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
      broken = false;
      await expect(log.append(ENTRY, "written")).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
      log.close();
      await expect(log.append(ENTRY, "written")).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
    }
  });

  it("I8: a segment behind a symbolic link is not opened, nor is what is no directory", async () => {
    await bench.write(1);
    renameSync(bench.path(), `${bench.root}/elsewhere`);
    symlinkSync(`${bench.root}/elsewhere`, `${bench.directory}/0000000000000001.log`);
    expect(codeOf(() => bench.open())).toBe("ERR_ENVIRONMENT");
    expect(codeOf(() => bench.open({ directory: `${bench.root}/elsewhere` }))).toBe("ERR_ENVIRONMENT");
  });

  it("I8: what is written can be read again: a reason and approvals of any length are cut", async () => {
    const log = bench.open();
    const approvals = Array.from({ length: 64 }, (_, index) => `approver-${index}`.padEnd(64, "x"));
    await log.append({ ...ENTRY, approvals, reason: "\u0001".repeat(5_000) }, "written");
    log.close();
    const [record] = readAudit(bench.directory, 1, 1);
    expect(record).toMatchObject({ approvals: approvals.slice(0, 16), reason: "\u0001".repeat(512) });
  });

  it("I8: only the log's own statements stand with its own operations", async () => {
    const log = bench.open();
    await log.append({ ...ENTRY, operation: "checkpoint" }, "written");
    log.close();
    expect(errorOf(() => bench.open())).toMatchObject({ code: "ERR_AUDIT_MALFORMED", expected: "checkpoint" });
  });

  it("I8, I10: any record is read as it was written", () => {
    const hex = (bytes: number) =>
      fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((made) => Buffer.from(made).toString("hex"));
    const base64 = fc.uint8Array({ minLength: 1, maxLength: 96 }).map((made) => Buffer.from(made).toString("base64"));
    const statement: fc.Arbitrary<AuditStatement> = fc.oneof(
      fc.record({ kind: fc.constant("repair" as const), bytes: fc.integer({ min: 1 }) }),
      fc.record({ kind: fc.constant("retention" as const), first: fc.integer({ min: 2 }) }),
      fc.record({ kind: fc.constant("certificate" as const), public: base64, attest: base64, signature: base64 }),
      fc.record({
        ...{ kind: fc.constant("checkpoint" as const), seq: fc.integer({ min: 1 }), hash: hex(32), signature: base64 },
        key: hex(32).map((digest) => `000b${digest}`),
      }),
    );
    const text = fc.string({ unit: "binary", maxLength: 600 });
    const names = fc.array(fc.string({ minLength: 1, maxLength: 64 }), { maxLength: 16 });
    fc.assert(
      fc.property(statement, text, names, hex(32), (said, reason, approvals, hash) => {
        const entry = { ...ENTRY, operation: said.kind, statement: said, reason, approvals };
        const { line, head } = encodeRecord(entry, { seq: 41, hash }, "2027-01-15T08:00:00.000Z");
        const record = verifyLine(line.subarray(0, -1), { seq: 41, hash });
        expect(record).toMatchObject({ seq: 42, hash: head.hash, statement: said, approvals });
      }),
      { numRuns: 100 },
    );
  });

  it("I8, I10: any changed byte of a log is noticed", async () => {
    const head = await bench.write(3);
    const bytes = readFileSync(bench.path());
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const changed = Uint8Array.from(bytes);
        changed[at] = (changed[at] ?? 0) ^ flip;
        writeFileSync(bench.path(), changed);
        // A line feed that is gone makes its record a part of one, which is cut off: then the anchored one is missing.
        expect(codeOf(() => bench.open({ anchor: head }))).toMatch(/^ERR_AUDIT_(MALFORMED|ROLLED_BACK)$/);
      }),
      { numRuns: 150 },
    );
  });
});
