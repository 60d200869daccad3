import { createHash } from "node:crypto";
import { z } from "zod";
import { parseJson } from "../policy/index.ts";
import { AgentError } from "./errors.ts";

/** Bytes of a record's line with its LF. */
export const MAX_LINE = 4096;
const PREFIX = "ironclaw-audit-1\n";
const HASH_FIELD = ',"hash":';
/** Long enough for every reason the agent writes; keeps a line below `MAX_LINE`. */
const MAX_REASON = 512;

const hex64 = z.string().regex(/^[0-9a-f]{64}$/);
const short = z.string().max(MAX_REASON);
const STEPS = [
  ...(["session", "caller", "frozen", "valid", "key", "operation", "mechanism", "parameters"] as const),
  ...(["approvals", "rate", "budget", "busy"] as const),
] as const;
const recordSchema = z.strictObject({
  seq: z.int().min(1),
  time: z.iso.datetime({ precision: 3 }),
  caller: z.strictObject({ uid: z.int().min(0), pid: z.int().min(0), exe: short }).nullable(),
  scope: short,
  key: short.nullable(),
  mechanism: short.nullable(),
  operation: z.enum(["connect", "session", "sign", "decrypt", "unwrap", "shim"]),
  inputDigest: z.templateLiteral(["sha256:", hex64]).nullable(),
  decision: z.enum(["allow", "deny"]),
  step: z.enum(STEPS).nullable(),
  reason: short,
  prev: hex64,
  hash: hex64,
});

/** One line of the log; AUDIT.md describes the fields. */
export type AuditRecord = Readonly<z.infer<typeof recordSchema>>;
/** What the caller of `append` knows; the log adds `seq`, `time`, `prev` and `hash`. */
export type AuditEntry = Omit<AuditRecord, "seq" | "time" | "prev" | "hash" | "inputDigest"> & {
  readonly inputDigest: string | null;
};

/** Names a log's state: its last record. */
export interface AuditHead {
  readonly seq: number;
  /** 64 lower-case hexadecimal digits. */
  readonly hash: string;
}

export const EMPTY_HEAD: AuditHead = { seq: 0, hash: "0".repeat(64) };

/** The next record's line, with its LF, and the head that it makes. */
export function encodeRecord(
  entry: AuditEntry,
  previous: AuditHead,
  time: string,
): { line: Uint8Array; head: AuditHead } {
  const seq = previous.seq + 1;
  const { caller } = entry;
  const body = JSON.stringify({
    seq,
    time,
    caller: caller === null ? null : { uid: caller.uid, pid: caller.pid, exe: caller.exe },
    scope: entry.scope,
    key: entry.key,
    mechanism: entry.mechanism,
    operation: entry.operation,
    inputDigest: entry.inputDigest,
    decision: entry.decision,
    step: entry.step,
    reason: entry.reason.slice(0, MAX_REASON).toWellFormed(),
    prev: previous.hash,
  });
  const hash = hashBody(body);
  const line = new TextEncoder().encode(`${body.slice(0, -1)}${HASH_FIELD}"${hash}"}\n`);
  if (line.length > MAX_LINE) throw new TypeError(`audit record: ${line.length} bytes do not fit a line`);
  return { line, head: { seq, hash } };
}

/**
 * Verifies one line against the head before it.
 * @param line without its LF
 * @throws AgentError `ERR_AUDIT_MALFORMED`
 */
export function verifyLine(line: Uint8Array, previous: AuditHead): AuditRecord {
  const what = `audit record ${previous.seq + 1}`;
  const record = parseRecord(line, what);
  expectField(`${what} seq`, previous.seq + 1, record.seq);
  expectField(`${what} prev`, previous.hash, record.prev);
  const { line: canonical } = encodeRecord(record, previous, record.time);
  const same = canonical.length === line.length + 1 && line.every((byte, index) => byte === canonical[index]);
  if (!same)
    throw new AgentError("ERR_AUDIT_MALFORMED", `${what} hash`, {
      expected: "the hash of this line",
      got: record.hash,
    });
  return record;
}

function parseRecord(line: Uint8Array, what: string): AuditRecord {
  try {
    return recordSchema.parse(parseJson(line, what, { maxBytes: MAX_LINE, maxDepth: 3 }));
  } catch (cause) {
    throw new AgentError("ERR_AUDIT_MALFORMED", what, {
      expected: "a record of this format",
      got: "another line",
      cause,
    });
  }
}

function expectField(field: string, expected: number | string, got: number | string): void {
  if (expected !== got) throw new AgentError("ERR_AUDIT_MALFORMED", field, { expected: `${expected}`, got: `${got}` });
}

function hashBody(body: string): string {
  return createHash("sha256").update(PREFIX).update(body).digest("hex");
}
