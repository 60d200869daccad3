import { hash } from "node:crypto";
import * as z from "zod";
import { parseJson } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";
import { type AuditStatement, orderStatement, STATEMENT_KINDS, statementSchema } from "./statement.ts";

/** Bytes of a record's line with its LF. */
export const MAX_LINE = 8192;
const PREFIX = "ironclaw-audit-2\n";
const HASH_FIELD = ',"hash":';
/** Long enough for every reason the agent writes; keeps a line below `MAX_LINE`. */
const MAX_REASON = 512;
const MAX_APPROVALS = 16;

/** What a workload asks for. */
const DECIDED = ["connect", "session", "sign", "decrypt", "unwrap"] as const;
/** What an operator did, or happened to a token. */
const EVENTS = ["approve", "freeze", "narrow", "end", "shim"] as const;
const OF_THE_LOG = ["rotate", ...STATEMENT_KINDS] as const;
/** Steps of a decision, in their order (POLICY.md); then what is no decision. */
const STEPS = [
  ...(["session", "caller", "frozen", "valid", "key", "operation"] as const),
  ...(["mechanism", "parameters", "approvals", "rate", "budget", "busy"] as const),
] as const;

const hex64 = z.string().regex(/^[0-9a-f]{64}$/);
const short = z.string().max(MAX_REASON);
const recordSchema = z.strictObject({
  seq: z.int().min(1),
  time: z.iso.datetime({ precision: 3 }),
  caller: z.strictObject({ uid: z.int().min(0), pid: z.int().min(0), exe: short }).nullable(),
  scope: short,
  key: short.nullable(),
  mechanism: short.nullable(),
  operation: z.enum([...DECIDED, ...EVENTS, ...OF_THE_LOG]),
  inputDigest: z.templateLiteral(["sha256:", hex64]).nullable(),
  decision: z.enum(["allow", "deny"]),
  step: z.enum(STEPS).nullable(),
  reason: short,
  approvals: z.array(z.string().min(1).max(64)).max(MAX_APPROVALS),
  statement: statementSchema.nullable(),
  prev: hex64,
  hash: hex64,
});

/** One line of the log; AUDIT.md describes the fields. */
export type AuditRecord = Readonly<z.infer<typeof recordSchema>>;
/** What the caller of `append` knows; the log adds `seq`, `time`, `prev` and `hash`. Only the log itself makes statements. */
export type AuditEntry = Omit<
  AuditRecord,
  "seq" | "time" | "prev" | "hash" | "inputDigest" | "approvals" | "statement"
> & {
  readonly inputDigest: string | null;
  readonly approvals: readonly string[];
  readonly statement?: AuditStatement | null;
};

/** Names a log's state: its last record. */
export interface AuditHead {
  readonly seq: number;
  /** 64 lower-case hexadecimal digits. */
  readonly hash: string;
}

export const EMPTY_HEAD: AuditHead = { seq: 0, hash: "0".repeat(64) };

/** A record's line, with its LF, and the head that it makes. */
export interface EncodedRecord {
  readonly line: Uint8Array;
  readonly head: AuditHead;
}

/** The same line as text. */
export interface WrittenRecord {
  readonly text: string;
  /** Bytes of it. */
  readonly length: number;
  readonly head: AuditHead;
}

const encoder = new TextEncoder();

/** The next record. */
export function encodeRecord(entry: AuditEntry, previous: AuditHead, time: string): EncodedRecord {
  const { text, head } = writeRecord(entry, previous, time);
  return { line: encoder.encode(text), head };
}

/**
 * The next record as text, of which several go out as one. By hand, field by field: there is one for every signature, and `JSON.stringify` of
 * an object takes twice as long.
 */
export function writeRecord(entry: AuditEntry, previous: AuditHead, time: string): WrittenRecord {
  const seq = previous.seq + 1;
  const { caller, statement } = entry;
  const fields =
    `{"seq":${seq},"time":${quoted(time)},"caller":${caller === null ? "null" : callerText(caller)},` +
    `"scope":${quoted(entry.scope)},"key":${quoted(entry.key)},"mechanism":${quoted(entry.mechanism)},` +
    `"operation":${quoted(entry.operation)},"inputDigest":${quoted(entry.inputDigest)},` +
    `"decision":${quoted(entry.decision)},"step":${quoted(entry.step)},` +
    `"reason":${quoted(entry.reason.slice(0, MAX_REASON).toWellFormed())},` +
    // More than ever are required: what is written can always be read again.
    `"approvals":${entry.approvals.length === 0 ? "[]" : JSON.stringify(entry.approvals.slice(0, MAX_APPROVALS))},` +
    `"statement":${statement === undefined || statement === null ? "null" : JSON.stringify(orderStatement(statement))},` +
    `"prev":${quoted(previous.hash)}`;
  const digest = hashBody(`${fields}}`);
  const text = `${fields}${HASH_FIELD}"${digest}"}\n`;
  const length = Buffer.byteLength(text);
  if (length > MAX_LINE) throw new TypeError(`audit record: ${length} bytes do not fit a line`);
  return { text, length, head: { seq, hash: digest } };
}

/** What stands in JSON as it is. */
const PLAIN = /^[ !#-[\]-~]*$/;

function quoted(text: string | null): string {
  if (text === null) return "null";
  return PLAIN.test(text) ? `"${text}"` : JSON.stringify(text);
}

function callerText({ uid, pid, exe }: NonNullable<AuditEntry["caller"]>): string {
  return `{"uid":${uid},"pid":${pid},"exe":${quoted(exe)}}`;
}

/**
 * Reads one line, and checks that its hash is its own. Does not establish what came before it: see `verifyLine`.
 * @param line without its LF
 * @throws AgentError `ERR_AUDIT_MALFORMED`
 */
export function parseLine(line: Uint8Array, what: string): AuditRecord {
  const record = parseRecord(line, what);
  const { line: canonical } = encodeRecord(record, { seq: record.seq - 1, hash: record.prev }, record.time);
  const same = canonical.length === line.length + 1 && line.every((byte, index) => byte === canonical[index]);
  if (same) return record;
  throw new AgentError("ERR_AUDIT_MALFORMED", `${what} hash`, { expected: "the hash of this line", got: record.hash });
}

/**
 * Verifies one line against the head before it.
 * @param line without its LF
 * @param where the file it is from, for errors; empty for none
 * @throws AgentError `ERR_AUDIT_MALFORMED`
 */
export function verifyLine(line: Uint8Array, previous: AuditHead, where = ""): AuditRecord {
  const what = `audit record ${previous.seq + 1}${where}`;
  const record = parseLine(line, what);
  expectField(`${what} seq`, previous.seq + 1, record.seq);
  expectField(`${what} prev`, previous.hash, record.prev);
  return record;
}

function parseRecord(line: Uint8Array, what: string): AuditRecord {
  try {
    const record = recordSchema.parse(parseJson(line, what, { maxBytes: MAX_LINE, maxDepth: 3 }));
    expectField(`${what} statement`, statementOf(record.operation), record.statement?.kind ?? "none");
    return record;
  } catch (cause) {
    if (cause instanceof AgentError) throw cause;
    throw new AgentError("ERR_AUDIT_MALFORMED", what, {
      expected: "a record of this format",
      got: "another line",
      cause,
    });
  }
}

/** A workload's call can never pass for a checkpoint, nor the other way round. */
function statementOf(operation: AuditRecord["operation"]): string {
  return STATEMENT_KINDS.find((kind) => kind === operation) ?? "none";
}

function expectField(field: string, expected: number | string, got: number | string): void {
  if (expected !== got) throw new AgentError("ERR_AUDIT_MALFORMED", field, { expected: `${expected}`, got: `${got}` });
}

function hashBody(body: string): string {
  return hash("sha256", `${PREFIX}${body}`, "hex");
}
