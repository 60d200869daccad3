import { open } from "node:fs/promises";

/** How often a needle occurs in a file, in each encoding in which a program may hold it. Overlapping occurrences count. */
export interface ScanCounts {
  readonly file: string;
  readonly utf8: number;
  readonly utf16le: number;
  readonly utf16be: number;
}

const CHUNK = 4 * 1024 * 1024;

/**
 * Count `needle` in files of any size (memory dumps, disk images, logs), at any byte offset. Memory use stays at some 4 MiB.
 * Finds plain copies only: a needle that is compressed, encrypted or split over two places is not found.
 * Throws TypeError for a needle shorter than 4 characters, which would be found by chance, and the errors of `node:fs`.
 */
export async function scanFiles(
  files: readonly string[],
  needle: string,
  chunkSize: number = CHUNK,
): Promise<ScanCounts[]> {
  if (needle.length < 4) throw new TypeError(`needle: ${needle.length} characters, too short to mean anything`);
  const wide = Buffer.from(needle, "utf16le");
  const patterns = [Buffer.from(needle, "utf8"), wide, Buffer.from(wide).swap16()] as const;
  const results: ScanCounts[] = [];
  for (const file of files) {
    const [utf8 = 0, utf16le = 0, utf16be = 0] = await countInFile(file, patterns, chunkSize);
    results.push({ file, utf8, utf16le, utf16be });
  }
  return results;
}

/** All occurrences over all files and encodings. */
export function totalCount(results: readonly ScanCounts[]): number {
  return results.reduce((sum, { utf8, utf16le, utf16be }) => sum + utf8 + utf16le + utf16be, 0);
}

async function countInFile(file: string, patterns: readonly Buffer[], chunkSize: number): Promise<number[]> {
  const overlap = Math.max(...patterns.map((pattern) => pattern.length)) - 1;
  const buffer = Buffer.alloc(overlap + chunkSize);
  const counts = patterns.map(() => 0);
  await using handle = await open(file);
  // The buffer starts with the end of the chunk before, as much as a pattern can reach over; what ends in there was counted.
  for (let kept = 0; ; ) {
    const { bytesRead } = await handle.read(buffer, kept, chunkSize, null);
    if (bytesRead === 0) return counts;
    const filled = kept + bytesRead;
    patterns.forEach((pattern, index) => {
      const from = Math.max(0, kept - pattern.length + 1);
      counts[index] = (counts[index] ?? 0) + occurrences(buffer.subarray(from, filled), pattern);
    });
    const keep = Math.min(overlap, filled);
    buffer.copy(buffer, 0, filled - keep, filled);
    kept = keep;
  }
}

function occurrences(haystack: Buffer, pattern: Buffer): number {
  let count = 0;
  for (let at = haystack.indexOf(pattern); at >= 0; at = haystack.indexOf(pattern, at + 1)) count += 1;
  return count;
}
