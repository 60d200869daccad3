import { closeSync, constants } from "node:fs";
import type { AuditHead, AuditRecord } from "./record.ts";
import { verifyLine } from "./record.ts";
import { openSegment, readLines, type Segment } from "./segment.ts";

/** One record in so many is remembered with its place: a reading begins at most so many records early. */
const EVERY = 64;

interface Position {
  readonly offset: number;
  /** The verified head before the record that stands there. */
  readonly previous: AuditHead;
}

interface KnownSegment {
  readonly segment: Segment;
  readonly positions: Position[];
  /** Milliseconds since 1970: of its last record. */
  time: number;
}

/** Where the records of an open log are, so that some of them are read without the rest: what is verified once is a place to begin at. */
export class LogPositions {
  #segments: KnownSegment[] = [];
  #latest = 0;

  get segments(): readonly Segment[] {
    return this.#segments.map(({ segment }) => segment);
  }

  /** Milliseconds since 1970: the greatest time of a record, which is not the last one's when the clock was set back. */
  get latest(): number {
    return this.#latest;
  }

  begin(segment: Segment): void {
    this.#segments.push({ segment, positions: [], time: 0 });
  }
  /** A record that is verified, or was just written, in the last segment. */
  note(previous: AuditHead, offset: number, time: number): void {
    const last = this.#segments.at(-1);
    if (last === undefined) return;
    last.time = time;
    this.#latest = Math.max(this.#latest, time);
    if ((previous.seq + 1 - last.segment.first) % EVERY === 0) last.positions.push({ offset, previous });
  }
  /** Segments, from the oldest on, whose records are all older than `time`. Never the last two. */
  olderThan(time: number): readonly Segment[] {
    const end = this.#segments.findIndex((known) => known.time >= time);
    const old = this.#segments.slice(0, end < 0 ? undefined : end);
    return old.slice(0, Math.max(0, this.#segments.length - 2)).map(({ segment }) => segment);
  }
  /** The oldest segment was deleted. */
  dropOldest(): void {
    this.#segments = this.#segments.slice(1);
  }

  /**
   * The records `from` and following, at most `limit`, up to `head`: verified as a chain from a place that was verified before.
   * Reads at most `limit` + 64 records.
   */
  read(from: number, limit: number, head: AuditHead): readonly AuditRecord[] {
    const found: AuditRecord[] = [];
    const oldest = this.#segments[0]?.segment.first ?? 1;
    for (let next = Math.max(from, oldest); next <= head.seq && found.length < limit; ) {
      const known = this.#segments.findLast(({ segment }) => segment.first <= next);
      const position = known?.positions.findLast(({ previous }) => previous.seq < next);
      if (known === undefined || position === undefined) return found;
      const before = found.length;
      readFrom(known.segment, position, head, (record) => {
        if (record.seq >= next) found.push(record);
        return found.length < limit;
      });
      if (found.length === before) return found;
      next = (found.at(-1)?.seq ?? next) + 1;
    }
    return found;
  }
}

/** @param take false ends the reading */
function readFrom(
  { path, name }: Segment,
  { offset, previous }: Position,
  end: AuditHead,
  take: (record: AuditRecord) => boolean,
): void {
  const fd = openSegment(path, constants.O_RDONLY);
  try {
    let head = previous;
    for (const line of readLines(fd, offset)) {
      const record = verifyLine(line.bytes, head, ` in ${name}`);
      head = { seq: record.seq, hash: record.hash };
      if (!take(record) || record.seq >= end.seq) return;
    }
  } finally {
    closeSync(fd);
  }
}
