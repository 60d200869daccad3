// Runs in the guest, as root, under the image's own Node: counts values in the memory of every process and in files.
// Order on standard input, result on standard output, both one JSON document.
import { closeSync, lstatSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import {
  type Counts,
  countInStream,
  type MaskedNeedle,
  type Needle,
  openNeedle,
  type ScannedProcess,
  scanProcess,
  startCounts,
} from "./guest-memory.ts";

export interface ScanOrder {
  readonly needles: readonly MaskedNeedle[];
  /** Directories, files and block devices. Links are not followed. */
  readonly places: readonly string[];
}

export interface ScanResult {
  /** All with memory of their own, but for the scanner itself, which holds what it has just read. */
  readonly processes: readonly ScannedProcess[];
  readonly kernelThreads: number;
  readonly files: readonly { readonly path: string; readonly bytes: number; readonly counts: Counts }[];
}

/** Empty for a kernel thread, `null` for a process that has ended since it was listed, as kernel workers do. */
function mapsOf(pid: number): string | null {
  try {
    return readFileSync(`/proc/${pid}/maps`, "latin1");
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return null;
    throw error;
  }
}

function* filesBelow(path: string): Generator<string> {
  const entry = lstatSync(path, { throwIfNoEntry: false });
  if (entry?.isDirectory()) for (const name of readdirSync(path)) yield* filesBelow(join(path, name));
  else if (entry?.isFile() || entry?.isBlockDevice()) yield path;
}

function scanFile(path: string, needles: readonly Needle[]) {
  const counts = startCounts(needles);
  const file = openSync(path, "r");
  const bytes = countInStream(needles, counts, (into) => readSync(file, into, 0, into.length, null));
  closeSync(file);
  return { path, bytes, counts };
}

function scan(order: ScanOrder): ScanResult {
  const needles = order.needles.map(openNeedle);
  const processes: ScannedProcess[] = [];
  let kernelThreads = 0;
  for (const pid of readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)) {
    if (pid === process.pid) continue;
    const maps = mapsOf(pid);
    if (maps === "") kernelThreads++;
    if (maps) processes.push(scanProcess(pid, needles));
  }
  const files = order.places.flatMap((place) => [...filesBelow(place)]).map((path) => scanFile(path, needles));
  return { processes, kernelThreads, files };
}

const order: ScanOrder = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(`${JSON.stringify(scan(order))}\n`);
