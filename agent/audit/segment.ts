import { closeSync, constants, fstatSync, openSync, readdirSync, readSync } from "node:fs";
import { join } from "node:path";
import { AgentError } from "../errors.ts";
import { MAX_LINE } from "./record.ts";

const CHUNK = 65_536;
const LINE_FEED = 10;
const NAME = /^([0-9]{16})\.log$/;

/** One file of a log. */
export interface Segment {
  readonly name: string;
  readonly path: string;
  /** Number of its first record, which its name says. */
  readonly first: number;
}

export function segmentAt(directory: string, first: number): Segment {
  const name = `${`${first}`.padStart(16, "0")}.log`;
  return { name, path: join(directory, name), first };
}

/**
 * The segments of a log in their order. Other names in the directory are none of the log's.
 * @throws AgentError ERR_ENVIRONMENT when it is no directory that can be read
 */
export function listSegments(directory: string): readonly Segment[] {
  let names: readonly string[];
  try {
    names = readdirSync(directory);
  } catch (cause) {
    throw unusable(directory, "a directory", codeOf(cause), cause);
  }
  const firsts = names.flatMap((name) => {
    const digits = NAME.exec(name)?.[1];
    return digits === undefined ? [] : [Number(digits)];
  });
  return firsts.sort((a, b) => a - b).map((first) => segmentAt(directory, first));
}

/** @throws AgentError ERR_ENVIRONMENT for what is no regular file */
export function openSegment(path: string, flags: number): number {
  let fd: number;
  try {
    // A pipe would block the open, a link could lead elsewhere.
    fd = openSync(path, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK, 0o600);
  } catch (cause) {
    throw unusable(path, "a regular file", codeOf(cause), cause);
  }
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw unusable(path, "a regular file", "something else");
}

/** A whole line of a segment, without its LF, and its first byte's offset. */
export interface Line {
  readonly bytes: Uint8Array;
  readonly offset: number;
}

/**
 * Whole lines. Bytes after the last LF are left out.
 * @throws AgentError ERR_AUDIT_MALFORMED for a line beyond `MAX_LINE`, ERR_ENVIRONMENT when the disk does not give them
 */
export function* readLines(fd: number, from = 0): Generator<Line> {
  let rest = Buffer.alloc(0);
  const chunk = Buffer.alloc(CHUNK);
  let offset = from;
  for (let position = from; ; ) {
    const length = readChunk(fd, chunk, position);
    if (length === 0) return;
    position += length;
    rest = Buffer.concat([rest, chunk.subarray(0, length)]);
    let start = 0;
    for (let at = rest.indexOf(LINE_FEED, start); at !== -1; at = rest.indexOf(LINE_FEED, start)) {
      yield { bytes: Uint8Array.from(rest.subarray(start, at)), offset: offset + start };
      start = at + 1;
    }
    offset += start;
    rest = rest.subarray(start);
    if (rest.length >= MAX_LINE) {
      throw new AgentError("ERR_AUDIT_MALFORMED", "audit log: line", {
        expected: `at most ${MAX_LINE} bytes`,
        got: "a longer one",
      });
    }
  }
}

function readChunk(fd: number, chunk: Uint8Array, position: number): number {
  try {
    return readSync(fd, chunk, 0, chunk.length, position);
  } catch (cause) {
    throw new AgentError("ERR_ENVIRONMENT", "audit log", {
      expected: "a segment that can be read",
      got: codeOf(cause),
      cause,
    });
  }
}

/** EDQUOT, for which Node has no name. */
const QUOTA = -122;

/** The name of a system call's failure. */
export function codeOf(cause: unknown): string {
  if (cause instanceof Error && "errno" in cause && cause.errno === QUOTA) return "EDQUOT";
  return cause instanceof Error && "code" in cause ? String(cause.code) : "a failure";
}

function unusable(path: string, expected: string, got: string, cause?: unknown): AgentError {
  return new AgentError("ERR_ENVIRONMENT", `audit log ${path}`, { expected, got, cause });
}
