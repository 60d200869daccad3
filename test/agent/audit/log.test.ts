import { appendFileSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { inputDigest } from "../../../agent/audit/log.ts";
import { EMPTY_HEAD } from "../../../agent/audit/record.ts";
import { readAudit } from "../../../agent/audit/verify.ts";
import { AuditBench, codeOf, ENTRY, errorOf } from "../../support/audit-fixture.ts";

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
    const third = log.append(ENTRY, "durable"); // written while the sync for the second is under way
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

  it("I8: only the log's own statements stand with its own operations", async () => {
    const log = bench.open();
    await log.append({ ...ENTRY, operation: "checkpoint" }, "written");
    log.close();
    expect(errorOf(() => bench.open())).toMatchObject({ code: "ERR_AUDIT_MALFORMED", expected: "checkpoint" });
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
