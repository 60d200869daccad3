// Runs in the guest, as root: counts values in the memory of processes and in streams, and never holds one of them in clear itself.
import { closeSync, openSync, readFileSync, readSync } from "node:fs";

/** A value that is never in this process's memory in clear: base64 of a random mask, and of the value under that mask. */
export interface MaskedNeedle {
  readonly name: string;
  readonly mask: string;
  readonly masked: string;
}

export interface Found {
  readonly utf8: number;
  readonly utf16le: number;
  readonly utf16be: number;
}

export type Counts = Readonly<Record<string, Found>>;

export interface ScannedProcess {
  readonly pid: number;
  readonly uid: number;
  readonly name: string;
  /** Bytes of resident memory that were read. */
  readonly bytes: number;
  /** Addresses of resident memory that could not be read, with the error. */
  readonly unread: readonly string[];
  readonly counts: Counts;
}

type Encoding = keyof Found;
export interface Needle {
  readonly name: string;
  readonly mask: Buffer;
  readonly masked: Buffer;
}

const CHUNK = 1 << 20;
const MAX_NEEDLE = 128;
/** Bytes of one chunk that the next one begins with: one less than the longest needle in two-byte characters. */
const OVERLAP = 2 * MAX_NEEDLE - 1;
const buffer = Buffer.alloc(OVERLAP + CHUNK);

/** Whether the needle begins at `at`. Its characters are put together one at a time and kept nowhere. */
function beginsAt({ mask, masked }: Needle, at: number, end: number, encoding: Encoding): boolean {
  const width = encoding === "utf8" ? 1 : 2;
  if (at < 0 || at + masked.length * width > end) return false;
  for (let i = 0; i < masked.length; i++) {
    const character = (masked[i] ?? 0) ^ (mask[i] ?? 0);
    const place = at + i * width;
    if (encoding === "utf16be") {
      if (buffer[place] !== 0 || buffer[place + 1] !== character) return false;
    } else if (buffer[place] !== character || (width === 2 && buffer[place + 1] !== 0)) return false;
  }
  return true;
}

/** Counts what ends behind `from`; what ends before it was counted with the chunk before. */
function countInBuffer(needle: Needle, end: number, from: number, found: Record<Encoding, number>): void {
  const length = needle.masked.length;
  const first = (needle.masked[0] ?? 0) ^ (needle.mask[0] ?? 0);
  const count = (encoding: Encoding, at: number, size: number): void => {
    if (at + size > from && beginsAt(needle, at, end, encoding)) found[encoding]++;
  };
  const filled = buffer.subarray(0, end);
  for (let at = filled.indexOf(first); at >= 0; at = filled.indexOf(first, at + 1)) {
    count("utf8", at, length);
    count("utf16le", at, 2 * length);
    count("utf16be", at - 1, 2 * length);
  }
}

/** Reads on until `read` gives nothing more. Returns the number of bytes. */
export function countInStream(needles: readonly Needle[], counts: Mutable, read: (into: Buffer) => number): number {
  let total = 0;
  for (let kept = 0; ; ) {
    const bytes = read(buffer.subarray(kept, kept + CHUNK));
    if (bytes === 0) break;
    total += bytes;
    const end = kept + bytes;
    for (const needle of needles) countInBuffer(needle, end, kept, counts[needle.name] ?? noneFound());
    const keep = Math.min(OVERLAP, end);
    buffer.copyWithin(0, end - keep, end);
    kept = keep;
  }
  buffer.fill(0, 0, Math.min(total, buffer.length));
  return total;
}

type Mutable = Record<string, Record<Encoding, number>>;
const noneFound = (): Record<Encoding, number> => ({ utf8: 0, utf16le: 0, utf16be: 0 });
export const startCounts = (needles: readonly Needle[]): Mutable =>
  Object.fromEntries(needles.map(({ name }) => [name, noneFound()]));

// Documentation/admin-guide/mm/pagemap.rst: one 64-bit entry a page, bits 63 and 62.
const PAGE = 4096;
const ENTRY = 8;
const PRESENT_OR_SWAPPED = 0xc0;

interface Range {
  readonly start: number;
  end: number;
}

/** Pages that are in memory, whatever may be done with them; neighbours joined, so that a copy across two mappings is found. */
function residentRanges(pid: number, which: RegExp): Range[] {
  const ranges: Range[] = [];
  const pagemap = openSync(`/proc/${pid}/pagemap`, "r");
  const append = (start: number, end: number): void => {
    const last = ranges.at(-1);
    if (last?.end === start) last.end = end;
    else ranges.push({ start, end });
  };
  for (const line of readFileSync(`/proc/${pid}/maps`, "latin1").split("\n")) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)$/.exec(line);
    // Kernel pages that are mapped into every process and cannot be read this way.
    if (match === null || /^\[(vvar|vvar_vclock|vsyscall)\]$/.test(match[4] ?? "")) continue;
    if (!which.test(match[3] ?? "")) continue;
    const [start, end] = [Number.parseInt(match[1] ?? "", 16), Number.parseInt(match[2] ?? "", 16)];
    const entries = Buffer.alloc(((end - start) / PAGE) * ENTRY);
    const bytes = readSync(pagemap, entries, 0, entries.length, (start / PAGE) * ENTRY);
    if (bytes !== entries.length) throw new Error(`pagemap of ${pid}: expected ${entries.length} bytes, got ${bytes}`);
    for (let at = start, entry = 7; at < end; at += PAGE, entry += ENTRY) {
      if (((entries[entry] ?? 0) & PRESENT_OR_SWAPPED) !== 0) append(at, at + PAGE);
    }
  }
  closeSync(pagemap);
  return ranges;
}

/** @throws TypeError for one that would be found by chance, or that is too long */
export function openNeedle({ name, mask, masked }: MaskedNeedle): Needle {
  const needle = { name, mask: Buffer.from(mask, "base64"), masked: Buffer.from(masked, "base64") };
  if (needle.masked.length < 4 || needle.masked.length > MAX_NEEDLE) throw new TypeError(`needle ${name}: length`);
  return needle;
}

/**
 * What is in the resident memory of a process that stands still.
 * @param which by the permissions that a mapping shows; default: all
 */
export function searchMemory(
  pid: number,
  needles: readonly Needle[],
  which = /^/,
): Omit<ScannedProcess, "pid" | "uid" | "name"> {
  const memory = openSync(`/proc/${pid}/mem`, "r");
  const counts = startCounts(needles);
  const unread: string[] = [];
  let bytes = 0;
  for (const { start, end } of residentRanges(pid, which)) {
    let at = start;
    bytes += countInStream(needles, counts, (into) => {
      if (at >= end) return 0;
      try {
        const read = readSync(memory, into, 0, Math.min(into.length, end - at), at);
        at += read;
        return read;
      } catch (error) {
        unread.push(`${at.toString(16)}-${end.toString(16)} ${(error as NodeJS.ErrnoException).code}`);
        return 0;
      }
    });
  }
  closeSync(memory);
  return { bytes, unread, counts };
}

/** The process stands still meanwhile, except for the first, which cannot be stopped: nothing moves or is unmapped. */
export function scanProcess(pid: number, needles: readonly Needle[]): ScannedProcess {
  const status = readFileSync(`/proc/${pid}/status`, "latin1");
  process.kill(pid, "SIGSTOP");
  const found = searchMemory(pid, needles);
  process.kill(pid, "SIGCONT");
  const field = (name: string): string => new RegExp(`^${name}:\\s*(\\S+)`, "m").exec(status)?.[1] ?? "";
  return { pid, uid: Number(field("Uid")), name: field("Name"), ...found };
}
