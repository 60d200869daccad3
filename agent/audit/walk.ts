import { closeSync, constants, fstatSync } from "node:fs";
import { AgentError } from "../errors.ts";
import { type AuditHead, type AuditRecord, EMPTY_HEAD, parseLine, verifyLine } from "./record.ts";
import { type Line, listSegments, openSegment, readLines, type Segment } from "./segment.ts";

/** A record in its place. */
export interface WalkedRecord {
  readonly record: AuditRecord;
  /** Without its LF. */
  readonly line: Uint8Array;
  readonly segment: Segment;
  readonly offset: number;
  /** The head before it. */
  readonly previous: AuditHead;
}

/**
 * Reads a log from its first record, or from the segment that holds record `from`, and verifies every record as the one after the one
 * before it, over all segments. What came before the first one that is read stays unknown: `LogStart` judges that.
 */
export class LogWalk {
  readonly #segments: readonly Segment[];
  readonly #ends = new Map<string, number>();
  #head: AuditHead | null;
  #first: AuditHead | null = null;
  #torn = 0;

  /** @throws AgentError ERR_ENVIRONMENT */
  constructor(directory: string, from = 1) {
    const all = listSegments(directory);
    const start = all.findLastIndex(({ first }) => first <= from);
    this.#segments = all.slice(Math.max(start, 0));
    this.#head = this.#segments.length === 0 || this.#segments[0]?.first === 1 ? EMPTY_HEAD : null;
  }

  /** The last record so far. */
  get head(): AuditHead {
    return this.#head ?? EMPTY_HEAD;
  }
  /** The head before the first record: what that record says of it. `EMPTY_HEAD` for a log from its beginning. */
  get start(): AuditHead {
    return this.#first ?? EMPTY_HEAD;
  }
  /** Bytes behind the last whole line of the last segment. */
  get torn(): number {
    return this.#torn;
  }
  get segments(): readonly Segment[] {
    return this.#segments;
  }
  /** Offset behind the last whole line of a segment that was read. */
  endOf({ name }: Segment): number {
    return this.#ends.get(name) ?? 0;
  }

  /** @throws AgentError `ERR_AUDIT_MALFORMED` naming segment and record, `ERR_ENVIRONMENT` */
  *records(): Generator<WalkedRecord> {
    for (const segment of this.#segments) {
      if (this.#head !== null && segment.first !== this.#head.seq + 1) throw gap(segment, this.#head.seq + 1);
      const fd = openSegment(segment.path, constants.O_RDONLY);
      try {
        yield* this.#recordsOf(segment, fd);
      } finally {
        closeSync(fd);
      }
    }
  }

  *#recordsOf(segment: Segment, fd: number): Generator<WalkedRecord> {
    this.#ends.set(segment.name, 0);
    for (const line of readLines(fd)) {
      const walked = this.#verify(line, segment);
      this.#head = { seq: walked.record.seq, hash: walked.record.hash };
      this.#first ??= walked.previous;
      this.#ends.set(segment.name, line.offset + line.bytes.length + 1);
      yield walked;
    }
    if (this.#head === null) throw gap(segment, segment.first, "no record");
    this.#torn = fstatSync(fd).size - this.endOf(segment);
    const last = segment === this.#segments.at(-1);
    // A segment is on the disk, whole, before the next one begins.
    if (!last && this.#torn > 0) throw unfinished(segment, this.head.seq, this.#torn);
  }

  #verify({ bytes, offset }: Line, segment: Segment): WalkedRecord {
    const where = ` in ${segment.name}`;
    const previous = this.#head ?? firstPrevious(bytes, segment);
    const record = verifyLine(bytes, previous, where);
    const begins = segment.first > 1 && record.seq === segment.first;
    if (begins !== (record.operation === "rotate")) {
      const expected = begins ? "rotate, at the beginning of a segment" : "rotate at the beginning of a segment only";
      throw new AgentError("ERR_AUDIT_MALFORMED", `audit record ${record.seq}${where} operation`, {
        expected,
        got: record.operation,
      });
    }
    return { record, line: bytes, segment, offset, previous };
  }
}

function firstPrevious(bytes: Uint8Array, { name, first }: Segment): AuditHead {
  return { seq: first - 1, hash: parseLine(bytes, `audit record ${first} in ${name}`).prev };
}

function gap({ name, first }: Segment, expected: number, got = `record ${first}`): AgentError {
  return new AgentError("ERR_AUDIT_MALFORMED", `audit segment ${name}`, {
    expected: `record ${expected}`,
    got,
    ...(first > expected ? { hint: `records ${expected} to ${first - 1} are missing` } : {}),
  });
}

function unfinished({ name }: Segment, seq: number, bytes: number): AgentError {
  return new AgentError("ERR_AUDIT_MALFORMED", `audit segment ${name} after record ${seq}`, {
    expected: "its end",
    got: `${bytes} bytes of a part of a record, and another segment`,
  });
}
