import { copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type AuditFiles, auditFiles } from "../../../agent/audit/files.ts";
import { logEntry } from "../../../agent/audit/log.ts";
import { knownHead, readAudit, verifyAudit } from "../../../agent/audit/verify.ts";
import { AuditBench, codeOf, ENTRY, errorOf, SMALL } from "../../support/audit-fixture.ts";

let bench: AuditBench;
beforeEach(() => {
  bench = new AuditBench();
});
afterEach(() => bench.remove());

const small = { limits: SMALL };
const verify = () => verifyAudit(bench.directory, new Map());

/** The system call that a process was killed in; for `write`, after so many bytes of it. */
interface Kill {
  readonly step: keyof AuditFiles;
  readonly count: number;
  readonly bytes: number;
}

/** Real system calls up to one at which the process ends: nothing after it happens, not even a close. */
function killedAt({ step, count, bytes }: Kill): Partial<AuditFiles> {
  let left = count;
  let dead = false;
  const at = <T>(name: keyof AuditFiles, act: () => T, part: () => void = () => undefined): T => {
    if (!dead && name === step && --left === 0) {
      dead = true;
      part();
    }
    if (dead) throw new Error("killed");
    return act();
  };
  return {
    create: (path) => at("create", () => auditFiles.create(path)),
    write: (fd, line) =>
      at(
        "write",
        () => auditFiles.write(fd, line),
        () => auditFiles.write(fd, line.subarray(0, Math.min(bytes, line.length))),
      ),
    syncNow: (fd) => at("syncNow", () => auditFiles.syncNow(fd)),
    syncDirectory: (path) => at("syncDirectory", () => auditFiles.syncDirectory(path)),
    remove: (path) => at("remove", () => auditFiles.remove(path)),
    replace: (path, line, position) => at("replace", () => auditFiles.replace(path, line, position)),
  };
}

describe("segments", () => {
  it("I8: the chain goes on from one to the next, and each begins with a record that says so", async () => {
    const head = await bench.write(12, small);
    expect(bench.segments().length).toBeGreaterThan(3);
    expect(verify()).toEqual({ first: 1, head, torn: 0 });
    const starts = bench.segments().map((name) => Number(name.slice(0, 16)));
    for (const seq of starts.slice(1)) {
      const [before, first] = readAudit(bench.directory, seq - 1, 2);
      expect(first).toMatchObject({ seq, operation: "rotate", prev: before?.hash, scope: "audit" });
    }
    const log = bench.open({ ...small, anchor: head });
    expect(log.head()).toEqual(head);
    expect((await log.append(ENTRY, "durable")).seq).toBeGreaterThan(head.seq);
    log.close();
  });

  it.each([
    ["EMFILE", false],
    ["ENFILE", false],
    ["EIO", true],
  ] as const)("I8: %s behind the deletion of the oldest segment stops the log: %s", async (code, stops) => {
    let isShort = false;
    const syncDirectory = (path: string) => {
      if (isShort) throw Object.assign(new Error(code), { code });
      auditFiles.syncDirectory(path);
    };
    const log = bench.open({ ...small, files: { syncDirectory } });
    while (log.segments.length < 3) await log.append(ENTRY, "written");
    const [oldest, second] = log.segments;
    isShort = true;
    if (stops) expect(() => log.deleteOldest()).toThrow(expect.objectContaining({ code: "ERR_AUDIT_WRITE" }));
    else log.deleteOldest();
    isShort = false;
    expect(log.segments[0]).toEqual(second);
    expect(existsSync(oldest?.path ?? "")).toBe(false);
    expect(log.failed).toBe(stops);
    if (!stops) expect((await log.append(ENTRY, "durable")).seq).toBe(log.head().seq);
    log.close();
  });

  it.each([
    ["EMFILE", "create"],
    ["ENFILE", "create"],
    ["EMFILE", "syncDirectory"],
  ] as const)(
    "I8: %s at %s refuses the record that needs another segment, and no record after it",
    async (code, step) => {
      let isShort = false;
      const files = {
        [step]: (path: string) => {
          if (isShort) throw Object.assign(new Error(code), { code });
          return auditFiles[step](path);
        },
      };
      const log = bench.open({ ...small, files });
      while (log.segments.length < 2) await log.append(ENTRY, "written");
      isShort = true;
      const append = () => log.append(ENTRY, "durable");
      let refused: unknown = null;
      while (refused === null)
        refused = await append().then(
          () => null,
          (error: unknown) => error,
        );
      expect(refused).toMatchObject({ code: "ERR_AUDIT_WRITE" });
      const { seq } = log.head();
      await expect(append()).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
      isShort = false;
      expect((await append()).seq).toBeGreaterThan(seq);
      expect(log.failed).toBe(false);
      log.close();
      expect(verify()).toEqual({ first: 1, head: log.head(), torn: 0 });
    },
  );

  it("I8: a reading begins where it is asked to, verifies what it gives, and reads a bounded part", async () => {
    const log = bench.open({ limits: { ...SMALL, segmentBytes: 60_000 } });
    for (let index = 0; index < 300; index += 1) await log.append(ENTRY, "written");
    for (const [from, limit] of [
      [1, 3],
      [64, 2],
      [65, 2],
      [150, 100],
      [299, 50],
      [400, 1],
    ] as const) {
      const last = Math.min(log.head().seq, from + limit - 1);
      const expected = Array.from({ length: Math.max(0, last - from + 1) }, (_, index) => from + index);
      expect(log.read(from, limit).map(({ seq }) => seq)).toEqual(expected);
    }
    // Before the last remembered place: not read again. Behind it: refused.
    const edit = (seq: number) => {
      const path = bench.path();
      writeFileSync(
        path,
        readFileSync(path, "utf8").replace(`{"seq":${seq},"time":"2027`, `{"seq":${seq},"time":"2028`),
      );
    };
    edit(10);
    expect(log.read(66, 1)).toHaveLength(1);
    edit(67);
    expect(codeOf(() => log.read(66, 3))).toBe("ERR_AUDIT_MALFORMED");
    log.close();
  });

  it.each<[string, () => void, RegExp]>([
    ["a segment removed from the middle", () => rmSync(bench.path(1)), /audit segment 0000000000000\d{3}\.log/],
    ["the first segment removed", () => rmSync(bench.path(0)), /audit log before record/],
    [
      "records cut off a segment that is not the last",
      () => bench.rewrite((lines) => lines.slice(0, -1), 1),
      /segment/,
    ],
    ["half a record at the end of a segment", () => half(1), /part of a record/],
    ["a record removed inside", () => bench.rewrite((lines) => lines.toSpliced(1, 1), 1), /record \d+ in 0+\d+\.log/],
    ["two records exchanged", () => bench.rewrite(([a = "", b = "", ...rest]) => [b, a, ...rest], 1), /in 0+\d+\.log/],
    ["a record edited", () => bench.rewrite((lines) => lines.map((line) => line.replace("rule", "role")), 1), /hash/],
    ["a segment under another number", () => copyFileSync(bench.path(1), segment(999)), /0000000000000999/],
    ["an empty log under another number", () => onlyEmpty(5), /no record/],
  ])("I8: %s is found, and it is said where", async (_what, change, where) => {
    await bench.write(12, small);
    change();
    expect(errorOf(verify)).toMatchObject({ code: "ERR_AUDIT_MALFORMED", message: expect.stringMatching(where) });
    expect(codeOf(() => bench.open(small))).toBe("ERR_AUDIT_MALFORMED");
  });

  const segment = (first: number) => join(bench.directory, `${`${first}`.padStart(16, "0")}.log`);
  const half = (index: number) => writeFileSync(bench.path(index), readFileSync(bench.path(index)).subarray(0, -9));
  const onlyEmpty = (first: number) => {
    for (const _ of bench.segments()) rmSync(bench.path());
    writeFileSync(segment(first), "");
  };

  it("I8: whole segments cut off the end are a log that is shorter than its anchor", async () => {
    const head = await bench.write(12, small);
    rmSync(bench.path(bench.segments().length - 1));
    expect(codeOf(verify)).toBe("none");
    expect(codeOf(() => bench.open({ ...small, anchor: head }))).toBe("ERR_AUDIT_ROLLED_BACK");
  });

  it("I8: another record in the place of a known one is found there", async () => {
    await bench.write(12, small);
    const known = knownHead({ seq: 5, hash: "ab".repeat(32) });
    expect(errorOf(() => verifyAudit(bench.directory, known))).toMatchObject({
      code: "ERR_AUDIT_ROLLED_BACK",
      message: expect.stringContaining("record 5 in "),
    });
  });

  it("I8: a rotation inside a segment is no record of this format's", async () => {
    const log = bench.open();
    await log.append(logEntry("rotate", "x"), "written");
    log.close();
    expect(codeOf(verify)).toBe("ERR_AUDIT_MALFORMED");
  });
});

describe("a process that is killed", () => {
  const steps = (["create", "write", "syncNow", "syncDirectory"] as const).flatMap((step) =>
    [1, 2, 3, 6].map((count) => ({ step, count })),
  );

  it.each(steps)(
    "I8, I11: in $step number $count loses nothing that was acknowledged, and the log opens again",
    async ({ step, count }) => {
      for (const bytes of step === "write" ? [0, 1, 300, 100_000] : [0]) {
        bench.remove();
        bench = new AuditBench();
        const acknowledged: number[] = [];
        try {
          const log = bench.open({ ...small, files: killedAt({ step, count, bytes }) });
          for (;;) acknowledged.push((await log.append(ENTRY, "written")).seq);
        } catch (error) {
          // What a caller was told nothing of may be missing.
          expect(String(error)).toMatch(/killed|signing stops|audit log/);
        }
        const log = bench.open(small);
        expect(log.head().seq).toBeGreaterThanOrEqual(acknowledged.at(-1) ?? 0);
        const torn = log.repairedBytes;
        await log.append(ENTRY, "durable");
        log.close();
        expect(verify().head.seq).toBeGreaterThan(acknowledged.at(-1) ?? 0);
        const repairs = readAudit(bench.directory, 1, 100).filter(({ operation }) => operation === "repair");
        expect(repairs.map(({ statement }) => statement)).toEqual(torn === 0 ? [] : [{ kind: "repair", bytes: torn }]);
      }
    },
  );

  it("I8, I11: at any byte of the repair itself, it is repaired and said all the same", async () => {
    await bench.write(4, small);
    const last = bench.segments().length - 1;
    const whole = readFileSync(bench.path(last));
    for (const [torn, written] of [
      [700, 0],
      [700, 200],
      [20, 200],
      [20, 1_000],
      [3_000, 900],
    ] as const) {
      writeFileSync(bench.path(last), Buffer.concat([whole, Buffer.alloc(torn, "x")]));
      const replace: AuditFiles["replace"] = (path, bytes, position) => {
        const content = readFileSync(path);
        const part = bytes.subarray(0, written);
        const behind = content.subarray(Math.min(content.length, position + part.length));
        writeFileSync(path, Buffer.concat([content.subarray(0, position), part, behind]));
        throw new Error("killed");
      };
      expect(codeOf(() => bench.open({ ...small, files: { replace } }))).toBe("ERR_ENVIRONMENT");
      bench.open(small).close();
      const { head } = verify();
      expect(readAudit(bench.directory, head.seq, 1)).toMatchObject([{ operation: "repair" }]);
      writeFileSync(bench.path(last), whole);
    }
  });
});
