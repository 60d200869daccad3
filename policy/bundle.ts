import { ByteReader, ByteWriter, equalBytes, utf8 } from "./bytes.ts";
import { PolicyError } from "./errors.ts";

// The format is described in vm-images/CABINET.md, section Bundle.

const MAGIC = utf8("IRONBND1");
const MAX_ENTRIES = 4096;
const MAX_PATH = 1024;

export interface BundleEntry {
  /** Absolute, normalised, printable ASCII. */
  readonly path: string;
  /** Where the content starts, in bytes from the start of the bundle. */
  readonly offset: number;
  readonly length: number;
  readonly bytes: Uint8Array;
}

/**
 * Build a bundle from path and content pairs, in any order (a `Map` will do).
 * Throws {@link PolicyError} ERR_CABINET_MALFORMED for a path that the format does not admit.
 */
export function encodeBundle(files: Iterable<readonly [path: string, content: Uint8Array]>): Uint8Array {
  const sorted = [...files].sort(([a], [b]) => (a < b ? -1 : 1)); // ASCII: code unit order is byte order
  requireCount(sorted.length);
  requirePaths(sorted.map(([path]) => path));
  const writer = new ByteWriter().bytes(MAGIC).u32(sorted.length);
  for (const [path, content] of sorted) writer.sized16(utf8(path)).u64(BigInt(content.length)).bytes(content);
  return writer.finish();
}

/**
 * Read a bundle. What is accepted encodes back to the same bytes.
 * Throws {@link PolicyError} ERR_CABINET_MALFORMED, or ERR_BYTES_* when it is cut short, too long, or has bytes left over.
 */
export function parseBundle(bytes: Uint8Array): BundleEntry[] {
  const reader = new ByteReader(bytes, "bundle");
  if (!equalBytes(reader.bytes(8, "magic"), MAGIC)) {
    throw new PolicyError("ERR_CABINET_MALFORMED", "bundle magic", {
      expected: "IRONBND1",
      got: "other bytes",
    });
  }
  const count = reader.u32("count");
  requireCount(count);
  const entries: BundleEntry[] = [];
  for (let index = 0; index < count; index += 1) {
    const path = String.fromCharCode(...reader.sized16("path", MAX_PATH));
    const length = Number(reader.u64("length"));
    const offset = reader.offset;
    entries.push({
      path,
      offset,
      length,
      bytes: reader.bytes(length, `content of ${JSON.stringify(path)}`),
    });
  }
  reader.end();
  requirePaths(entries.map((entry) => entry.path));
  return entries;
}

/** Whether `path` is absolute and normalised: the only spelling of its file. Printable ASCII, 2 to 1024 characters. */
export function isNormalisedPath(path: string): boolean {
  if (path.length < 2 || path.length > MAX_PATH || !path.startsWith("/") || !/^[ -~]+$/.test(path)) return false;
  return path
    .slice(1)
    .split("/")
    .every((part) => part !== "" && part !== "." && part !== "..");
}

function requireCount(count: number): void {
  if (count <= MAX_ENTRIES) return;
  throw new PolicyError("ERR_CABINET_MALFORMED", "bundle count", {
    expected: `at most ${MAX_ENTRIES}`,
    got: `${count}`,
  });
}

/** Each path normalised; ascending, hence unique; none a directory of another. */
function requirePaths(paths: readonly string[]): void {
  // Earlier paths that the present one begins with: in this order they follow each other, so nothing is searched for.
  const prefixes: string[] = [];
  let previous = "";
  for (const path of paths) {
    if (!isNormalisedPath(path)) refusePath("an absolute normalised path in printable ASCII", path);
    if (path <= previous) refusePath(`a path after ${previous}`, path);
    while (!path.startsWith(prefixes.at(-1) ?? "")) prefixes.pop();
    if (prefixes.some(({ length }) => path[length] === "/")) refusePath("no file among its directories", path);
    prefixes.push(path);
    previous = path;
  }
}

function refusePath(expected: string, path: string): never {
  throw new PolicyError("ERR_CABINET_MALFORMED", "bundle path", {
    expected,
    got: JSON.stringify(path),
  });
}
