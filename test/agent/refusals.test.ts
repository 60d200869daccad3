import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { FileAuditLog } from "../../agent/audit/log.ts";
import { openAudit } from "../../agent/audit/open.ts";
import type { AuditEntry } from "../../agent/audit/record.ts";
import { readAudit } from "../../agent/audit/verify.ts";
import { RefusalLog } from "../../agent/broker/refusals.ts";

let directory: string;
let audit: FileAuditLog;
let time: number;
let refusals: RefusalLog;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "refusals-"));
  audit = openAudit({ directory: join(directory, "audit.log"), now: () => 1_800_000_000_000, anchor: null });
  time = 0;
  refusals = new RefusalLog(audit, "written", () => time);
});
afterEach(() => {
  audit.close();
  rmSync(directory, { recursive: true });
});

const reasons = () => readAudit(join(directory, "audit.log"), 1, 10_000).map(({ reason }) => reason);

function refusal(uid: number, step: AuditEntry["step"] = "caller"): AuditEntry {
  const caller = { uid, pid: 1, exe: `sha256:${"5e".repeat(32)}` };
  const unknown = { key: null, mechanism: null, inputDigest: null };
  return {
    ...unknown,
    caller,
    scope: "s",
    operation: "sign",
    decision: "deny",
    approvals: [],
    step,
    reason: `${uid} ${step}`,
  };
}

describe("refusals", () => {
  it("I8: no refusal is lost: records and counts add up", async () => {
    for (let index = 0; index < 1000; index += 1) {
      await refusals.record(refusal(index % 3, index % 2 === 0 ? "caller" : "rate"));
      time += 700;
    }
    await refusals.flush();
    const total = reasons().reduce((sum, reason) => sum + Number(/^(\d+) more /.exec(reason)?.[1] ?? 1), 0);
    expect(total).toBe(1000);
    expect(reasons().length).toBeLessThan(6 * (16 + 2 * 12 + 1));
  });

  it("I8: a flood at one step hides no refusal at another, nor of another uid", async () => {
    for (let index = 0; index < 500; index += 1) await refusals.record(refusal(1, "rate"));
    await refusals.record(refusal(1, "mechanism"));
    await refusals.record(refusal(2, "rate"));
    expect(reasons().slice(16)).toEqual(["1 mechanism", "2 rate"]);
  });

  it("I10: more sources than can be told apart share one count, until the others are quiet", async () => {
    for (let round = 0; round < 2; round += 1) {
      for (let uid = 0; uid < 300; uid += 1) await refusals.record(refusal(uid));
    }
    expect(reasons()).toHaveLength(2 * 256 + 16);
    await refusals.flush();
    expect(reasons().at(-1)).toBe(`${2 * 44 - 16} more refusals like this one: 299 caller`);
    time += 20 * 60_000;
    await refusals.record(refusal(1000));
    expect(reasons().at(-1)).toBe("1000 caller");
  });

  it("I8: a refusal stays one when the log has stopped", async () => {
    audit.close();
    await expect(refusals.record(refusal(1))).resolves.toBeUndefined();
  });
});
