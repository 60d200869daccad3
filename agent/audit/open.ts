import { closeSync, fstatSync, mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { AgentError } from "../errors.ts";
import { type AuditFiles, auditFiles, openForAppending } from "./files.ts";
import { AUDIT_LIMITS, type AuditLimits } from "./limits.ts";
import { FileAuditLog, logEntry, rotation } from "./log.ts";
import { LogPositions } from "./positions.ts";
import { type AuditEntry, type AuditHead, encodeRecord } from "./record.ts";
import { codeOf, type Segment, segmentAt } from "./segment.ts";
import { knownHead, verifyLog } from "./verify.ts";
import { LogWalk } from "./walk.ts";

export interface AuditOptions {
  /** Made, mode 0700, when it is missing. */
  readonly directory: string;
  /** Milliseconds since 1970, for the records' `time`. */
  readonly now: () => number;
  /** A head of this log that was kept elsewhere; null when there is none, and then a log that ends early is not noticed. */
  readonly anchor: AuditHead | null;
  readonly limits?: AuditLimits;
  /** Other system calls than the real ones. */
  readonly files?: Partial<AuditFiles>;
}

/**
 * Verifies the log and opens it for appending; begins it when there is none. Reads the whole log. The rest of an interrupted write is
 * replaced by a record that says so.
 * Does not establish who wrote the records; see AUDIT.md.
 * @throws AgentError `ERR_AUDIT_MALFORMED` for an edited or reordered log, `ERR_AUDIT_ROLLED_BACK` for one that lacks the anchored
 *   record, `ERR_STATE_VOLUME` (`state-full`) when there is no room for a record of the repair, `ERR_ENVIRONMENT` when it cannot be opened
 */
export function openAudit({ directory, now, anchor, limits = AUDIT_LIMITS, ...options }: AuditOptions): FileAuditLog {
  const files = { ...auditFiles, ...options.files };
  makeDirectory(directory, files);
  const positions = new LogPositions();
  const walk = new LogWalk(directory);
  let begun: Segment | null = null;
  const { head, torn } = verifyLog(walk, knownHead(anchor), ({ record, segment, offset, previous }) => {
    if (segment !== begun) positions.begin(segment);
    begun = segment;
    positions.note(previous, offset, Date.parse(record.time));
  });
  const last = walk.segments.at(-1) ?? firstSegment(directory, files);
  const at = now();
  const time = new Date(at).toISOString();
  const repaired = repair({ last, end: walk.endOf(last), head, torn, time, files });
  if (last !== begun) positions.begin(last);
  for (const { previous, offset } of repaired.records) positions.note(previous, offset, at);
  const fd = openForAppending(last.path);
  try {
    files.syncNow(fd);
    const opened = { directory, now, files, limits, positions, fd, bytes: fstatSync(fd).size };
    return new FileAuditLog({ ...opened, head: repaired.head, repairedBytes: torn });
  } catch (cause) {
    closeSync(fd);
    throw noRoom(cause) ?? unusable(last.path, cause);
  }
}

function makeDirectory(directory: string, files: AuditFiles): void {
  try {
    mkdirSync(directory, { mode: 0o700 });
    // The log's own directory syncs what is in it; that it is there is its parent's.
    files.syncDirectory(dirname(directory));
  } catch (cause) {
    // What is there already is looked at when its segments are listed.
    if (codeOf(cause) !== "EEXIST") throw noRoom(cause) ?? unusable(directory, cause);
  }
}

function firstSegment(directory: string, files: AuditFiles): Segment {
  const segment = segmentAt(directory, 1);
  try {
    closeSync(files.create(segment.path));
    files.syncDirectory(directory);
  } catch (cause) {
    throw noRoom(cause) ?? unusable(segment.path, cause);
  }
  return segment;
}

interface Ending {
  readonly last: Segment;
  /** Offset behind its last whole line. */
  readonly end: number;
  readonly head: AuditHead;
  readonly torn: number;
  readonly time: string;
  readonly files: AuditFiles;
}

interface Repaired {
  readonly head: AuditHead;
  readonly records: readonly { readonly previous: AuditHead; readonly offset: number }[];
}

/** What a crash left undone: a segment without its first record, a record without its end. Can be cut off and called again. */
function repair({ last, end, head, torn, time, files }: Ending): Repaired {
  const missing: AuditEntry[] = [];
  if (end === 0 && last.first > 1) missing.push(rotation(head));
  if (torn > 0) missing.push(repairEntry(torn));
  if (missing.length === 0) return { head, records: [] };
  const lines: Uint8Array[] = [];
  const records: { previous: AuditHead; offset: number }[] = [];
  let now = head;
  for (const entry of missing) {
    const made = encodeRecord(entry, now, time);
    records.push({ previous: now, offset: end + lines.reduce((sum, line) => sum + line.length, 0) });
    lines.push(made.line);
    now = made.head;
  }
  try {
    files.replace(last.path, Buffer.concat(lines), end);
  } catch (cause) {
    throw noRoom(cause) ?? unusable(last.path, cause);
  }
  return { head: now, records };
}

function repairEntry(bytes: number): AuditEntry {
  const said = `${bytes} bytes of a record that was never finished were cut off`;
  return { ...logEntry("repair", said), statement: { kind: "repair", bytes } };
}

function noRoom(cause: unknown): AgentError | null {
  const got = codeOf(cause);
  if (got !== "ENOSPC" && got !== "EDQUOT") return null;
  const expected = "room for the log";
  return new AgentError("ERR_STATE_VOLUME", "audit log", { expected, got, state: "state-full", cause });
}

function unusable(path: string, cause: unknown): AgentError {
  const got = codeOf(cause);
  return new AgentError("ERR_ENVIRONMENT", `audit log ${path}`, { expected: "a log that can be written", got, cause });
}
