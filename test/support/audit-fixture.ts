import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inputDigest } from "../../agent/audit/log.ts";
import { type AuditOptions, openAudit } from "../../agent/audit/open.ts";
import type { AuditEntry, AuditHead } from "../../agent/audit/record.ts";
import { AgentError } from "../../agent/errors.ts";

/** 2027-01-15T08:00:00.000Z. */
export const START = 1_800_000_000_000;

export const ENTRY: AuditEntry = {
  caller: { uid: 2001, pid: 77, exe: `sha256:${"5e".repeat(32)}` },
  scope: "release-signing",
  key: "release-ec",
  mechanism: "CKM_ECDSA",
  operation: "sign",
  inputDigest: inputDigest(new Uint8Array(32)),
  decision: "allow",
  step: null,
  reason: "release-signing/CKM_ECDSA",
  approvals: [],
};

/** Small enough that a few records fill a segment; nothing is too young to be deleted. */
export const SMALL = { segmentBytes: 1_500, segments: 3, milliseconds: 0 };

export class AuditBench {
  readonly root: string = mkdtempSync(join(tmpdir(), "audit-"));
  readonly directory: string = join(this.root, "log");

  open(more: Partial<AuditOptions> = {}) {
    return openAudit({ directory: this.directory, now: () => START, anchor: null, ...more });
  }
  /** A log with so many records, closed. */
  async write(count: number, more: Partial<AuditOptions> = {}): Promise<AuditHead> {
    const log = this.open(more);
    for (let index = 0; index < count; index += 1) await log.append({ ...ENTRY, reason: `rule ${index}` }, "written");
    const head = log.head();
    log.close();
    return head;
  }
  segments(): readonly string[] {
    return readdirSync(this.directory).sort();
  }
  path(segment = 0): string {
    return join(this.directory, this.segments()[segment] ?? "none");
  }
  lines(segment = 0): readonly string[] {
    return readFileSync(this.path(segment), "utf8").split("\n").slice(0, -1);
  }
  rewrite(change: (lines: readonly string[]) => readonly string[], segment = 0): void {
    const lines = change(this.lines(segment));
    writeFileSync(this.path(segment), lines.map((line) => `${line}\n`).join(""));
  }
  delete(path: string): void {
    rmSync(path);
  }
  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

/** Code of the AgentError that it ends with, or "none". */
export function codeOf(action: () => unknown): string {
  return errorOf(action)?.code ?? "none";
}

export function errorOf(action: () => unknown): AgentError | null {
  try {
    action();
  } catch (error) {
    if (error instanceof AgentError) return error;
    throw error;
  }
  return null;
}
