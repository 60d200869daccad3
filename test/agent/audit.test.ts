import { appendFileSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type AuditOptions, inputDigest, openAudit, readAudit } from "../../agent/audit.ts";
import { type AuditEntry, EMPTY_HEAD } from "../../agent/audit-record.ts";
import { AgentError } from "../../agent/errors.ts";

let directory: string;
let path: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "audit-"));
  path = join(directory, "audit.log");
});
afterEach(() => rmSync(directory, { recursive: true }));

const entry: AuditEntry = {
  caller: { uid: 2001, pid: 77, exe: `sha256:${"5e".repeat(32)}` },
  scope: "release-signing",
  key: "release-ec",
  mechanism: "CKM_ECDSA",
  operation: "sign",
  inputDigest: inputDigest(new Uint8Array(32)),
  decision: "allow",
  step: null,
  reason: "release-signing/CKM_ECDSA",
};

function open(more: Partial<AuditOptions> = {}) {
  return openAudit({ path, now: () => 1_800_000_000_000, anchor: null, ...more });
}

async function writeLog(count: number) {
  const log = open();
  for (let index = 0; index < count; index += 1) await log.append({ ...entry, reason: `rule ${index}` }, "written");
  const head = log.head();
  log.close();
  return head;
}

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof AgentError) return error.code;
    throw error;
  }
  return "opened";
}

function rewrite(change: (lines: string[]) => string[]): void {
  writeFileSync(
    path,
    change(readFileSync(path, "utf8").split("\n").slice(0, -1))
      .map((line) => `${line}\n`)
      .join(""),
  );
}

describe("audit log", () => {
  it("I11: the durable head is the last record that a sync covered, and stays when a sync fails", async () => {
    const syncs: { readonly end: () => void; readonly fail: () => void }[] = [];
    const sync = () =>
      new Promise<void>((resolve, reject) => syncs.push({ end: resolve, fail: () => reject(new Error("EIO")) }));
    const log = open({ sync });
    const heads = () => [log.head().seq, log.durableHead().seq];
    await log.append(entry, "written");
    expect(heads()).toEqual([1, 0]);
    const second = log.append(entry, "durable");
    const third = log.append(entry, "durable"); // written while the sync for the second is under way
    expect(heads()).toEqual([3, 0]);
    syncs[0]?.end();
    await second;
    expect(heads()).toEqual([3, 2]);
    syncs[1]?.fail();
    await expect(third).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
    expect(heads()).toEqual([3, 2]);
    log.close();
    expect(open().durableHead().seq).toBe(3);
  });

  it("I8: a log goes on where it ended", async () => {
    const head = await writeLog(3);
    const log = open({ anchor: head });
    expect(log.head()).toEqual(head);
    expect(log.repairedBytes).toBe(0);
    expect((await log.append(entry, "durable")).seq).toBe(4);
    log.close();
    expect(readAudit(path, 2, 2).map(({ seq, reason }) => [seq, reason])).toEqual([
      [2, "rule 1"],
      [3, "rule 2"],
    ]);
    expect(open().head().seq).toBe(4);
  });

  it("I8: the first line has the documented bytes and hash", async () => {
    const log = open();
    await log.append(
      { ...entry, caller: null, decision: "deny", step: "caller", reason: "the peer could not be identified" },
      "written",
    );
    log.close();
    const body =
      `{"seq":1,"time":"2027-01-15T08:00:00.000Z","caller":null,"scope":"release-signing","key":"release-ec",` +
      `"mechanism":"CKM_ECDSA","operation":"sign","inputDigest":"${entry.inputDigest}","decision":"deny","step":"caller",` +
      `"reason":"the peer could not be identified","prev":"${"0".repeat(64)}"`;
    const hash = inputDigest(new TextEncoder().encode(`ironclaw-audit-1\n${body}}`)).slice("sha256:".length);
    expect(readFileSync(path, "utf8")).toBe(`${body},"hash":"${hash}"}\n`);
  });

  it.each<[string, (lines: string[]) => string[]]>([
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
    await writeLog(4);
    rewrite(change);
    expect(codeOf(() => open())).toBe("ERR_AUDIT_MALFORMED");
  });

  it("I8: a log that ends before its anchor is refused, and so is another log", async () => {
    const head = await writeLog(4);
    rewrite((lines) => lines.slice(0, 2));
    expect(codeOf(() => open({ anchor: head }))).toBe("ERR_AUDIT_ROLLED_BACK");
    expect(codeOf(() => open({ anchor: { seq: 2, hash: head.hash } }))).toBe("ERR_AUDIT_ROLLED_BACK");
    rmSync(path);
    expect(codeOf(() => open({ anchor: head }))).toBe("ERR_AUDIT_ROLLED_BACK");
    expect(codeOf(() => open({ anchor: EMPTY_HEAD }))).toBe("opened");
  });

  it("I8: a torn last line is cut off and reported, and the log goes on", async () => {
    await writeLog(2);
    appendFileSync(path, '{"seq":3,"ti');
    const log = open();
    expect(log.repairedBytes).toBe(12);
    expect((await log.append(entry, "written")).seq).toBe(3);
    log.close();
    expect(open().repairedBytes).toBe(0);
  });

  it("I8: after a failed or short write nothing can be appended any more", async () => {
    for (const write of [
      () => {
        throw new Error("ENOSPC");
      },
      (_fd: number, bytes: Uint8Array) => bytes.length - 1,
    ]) {
      let broken = true;
      const log = open({ write: (fd, bytes) => (broken ? write(fd, bytes) : bytes.length) });
      await expect(log.append(entry, "written")).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
      broken = false;
      await expect(log.append(entry, "written")).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
      log.close();
      await expect(log.append(entry, "written")).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
    }
  });

  it("I8: a log behind a symbolic link is not opened", async () => {
    await writeLog(1);
    symlinkSync(path, join(directory, "link"));
    expect(codeOf(() => open({ path: join(directory, "link") }))).toBe("ERR_ENVIRONMENT");
  });

  it("I8, I10: any changed byte of a log is noticed", async () => {
    const head = await writeLog(3);
    const bytes = readFileSync(path);
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const changed = Uint8Array.from(bytes);
        changed[at] = (changed[at] ?? 0) ^ flip;
        writeFileSync(path, changed);
        // A line feed that is gone makes its record a part of one, which is cut off: then the anchored one is missing.
        expect(codeOf(() => open({ anchor: head }))).toMatch(/^ERR_AUDIT_(MALFORMED|ROLLED_BACK)$/);
      }),
      { numRuns: 150 },
    );
  });
});
