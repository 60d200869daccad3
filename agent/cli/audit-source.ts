import { closeSync, constants, existsSync, fstatSync, statSync } from "node:fs";
import { join } from "node:path";
import type { ControlClient } from "../../vm-images/control-client.ts";
import { type AuditHead, type AuditRecord, parseLine, verifyLine } from "../audit/record.ts";
import { codeOf, openSegment, readLines } from "../audit/segment.ts";
import { LogWalk } from "../audit/walk.ts";
import { AgentError } from "../errors.ts";
import { openMachine } from "./machine-ports.ts";

/** Records that a running machine gives at once. */
const PAGE = 500;

/** A verified record: it comes after the one before it. */
export interface SourceRecord {
  readonly record: AuditRecord;
  /** As it stands in the log, without its LF. */
  readonly line: Uint8Array;
  /** The segment it is from, for messages; empty where there is none. */
  readonly where: string;
}

/** A log to read: its directory, an exported file, or a running machine. */
export interface AuditSource {
  readonly kind: "log" | "export" | "machine";
  /**
   * Verified as a chain from `from` on, or from an earlier record.
   * @throws AgentError ERR_AUDIT_MALFORMED, ERR_ENVIRONMENT
   */
  records(from: number): AsyncIterable<SourceRecord>;
  /** Bytes behind the last whole record that was read. */
  torn(): number;
  close(): void;
}

/** @param path a log's directory, an exported file, or a running machine's directory of port sockets */
export async function openAuditSource(path: string): Promise<AuditSource> {
  if (existsSync(join(path, "ironclaw.control.sock"))) return machineSource(await openMachine(path));
  try {
    return statSync(path).isDirectory() ? logSource(path) : exportSource(path);
  } catch (cause) {
    if (cause instanceof AgentError) throw cause;
    throw new AgentError("ERR_ENVIRONMENT", `audit log ${path}`, {
      expected: "a log's directory, an exported file, or a running machine's directory",
      got: codeOf(cause),
      cause,
    });
  }
}

function logSource(directory: string): AuditSource {
  let walk: LogWalk | null = null;
  return {
    kind: "log",
    records: async function* (from) {
      walk = new LogWalk(directory, from);
      if (walk.segments.length === 0) {
        const expected = "segments of a log, or the port sockets of a machine";
        throw new AgentError("ERR_ENVIRONMENT", `audit log ${directory}`, { expected, got: "neither" });
      }
      for (const { record, line, segment } of walk.records()) yield { record, line, where: ` in ${segment.name}` };
    },
    torn: () => walk?.torn ?? 0,
    close: () => undefined,
  };
}

/** Its first record is taken as it is: an export can begin anywhere. */
function exportSource(path: string): AuditSource {
  let torn = 0;
  return {
    kind: "export",
    records: async function* () {
      const fd = openSegment(path, constants.O_RDONLY);
      try {
        const next = chain();
        let end = 0;
        for (const { bytes, offset } of readLines(fd)) {
          end = offset + bytes.length + 1;
          yield { record: next(bytes), line: bytes, where: "" };
        }
        torn = fstatSync(fd).size - end;
      } finally {
        closeSync(fd);
      }
    },
    torn: () => torn,
    close: () => undefined,
  };
}

/** The machine is asked for pages, and not believed: its records are verified here. */
function machineSource(control: ControlClient): AuditSource {
  return {
    kind: "machine",
    records: async function* (from) {
      const next = chain();
      for (let at = from; ; ) {
        const { records } = await control.audit(at, PAGE);
        const page: readonly unknown[] = Array.isArray(records) ? records : [];
        for (const value of page) {
          const line = new TextEncoder().encode(JSON.stringify(value));
          const record = next(line);
          at = record.seq + 1;
          yield { record, line, where: "" };
        }
        if (page.length === 0) return;
      }
    },
    torn: () => 0,
    close: () => control.close(),
  };
}

function chain(): (line: Uint8Array) => AuditRecord {
  let head: AuditHead | null = null;
  return (line) => {
    const record = head === null ? parseLine(line, "audit record: the first one") : verifyLine(line, head);
    head = { seq: record.seq, hash: record.hash };
    return record;
  };
}
