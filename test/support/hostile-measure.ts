import { syscallName } from "../../policy/runtime/syscalls.ts";
import type { LabShim } from "./hostile-lab.ts";
import type { Measured } from "./hostile-table.ts";

/** Watch-listed attempts by number. */
export type Counts = Readonly<Record<number, number>>;

/** What was counted since, by name. */
export function byName(counts: Counts, before: Counts = {}): Record<string, number> {
  const grown = Object.entries(counts).map(([nr, count]) => [Number(nr), count - (before[Number(nr)] ?? 0)] as const);
  return Object.fromEntries(grown.filter(([, count]) => count > 0).map(([nr, count]) => [syscallName(nr), count]));
}

/** Every attempt by itself, from C_Sign. */
async function tryAll(shim: LabShim): Promise<readonly Measured[]> {
  const tried = await shim.tryAll();
  return tried.map(({ name, errno, before, after }) => ({ name, errno, shown: byName(after, before) }));
}

/** Both stages, in one shim: it is armed in between. */
export async function tryBothStages(
  shim: LabShim,
): Promise<{ readonly before: readonly Measured[]; readonly after: readonly Measured[] }> {
  await shim.serve();
  const before = await tryAll(shim);
  const filters = await shim.call("arm");
  if (filters !== 3) throw new Error(`filters: expected 3, got ${filters}`);
  const after = await tryAll(shim);
  await shim.close();
  return { before, after };
}

export function sumOf(measured: readonly Measured[]): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const { shown } of measured) {
    for (const [name, count] of Object.entries(shown)) sum[name] = (sum[name] ?? 0) + count;
  }
  return sum;
}

/** The module's own lines of one round of all attempts. */
export function roundOf(shim: LabShim): readonly (readonly [place: string, name: string, errno: number])[] {
  const lines = shim.results();
  const end = lines.findIndex(({ name }) => name === "end");
  if (end < 0) throw new Error("the attempts were not all made");
  return lines.slice(0, end).map(({ place, name, errno }) => [place, name, errno]);
}
