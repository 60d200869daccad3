import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Machine, Row } from "./bench.ts";
import { axisText, type Line, type Series } from "./series.ts";
import { plotSvg } from "./svg.ts";

/** What was measured together, when and where. */
export interface Part {
  /** ISO 8601. */
  readonly at: string;
  readonly machine: Machine;
  readonly rows: readonly Row[];
  readonly series: readonly Series[];
}

const RESULTS = "results.jsonl";
const DOCUMENT = "README.md";

const HOW_TO_READ = `## How to read it

A **row** sets our way against a peer that does the least that can be done, in one run on one machine; \`ratio\` is ours / peer. Of times it may be the target at most, of rates it has to be that at least. Figures of
another machine are other figures; the ratio holds longer. What each row and its peer is: test/bench/README.md.

A **series** has costs over sizes. A line that is judged has a slope: the exponent with which the cost grows over the upper half of its sizes (least squares, both axes logarithmic): 0 is constant, 1 linear, 2 quadratic. A lookup may
have 0.15, what has to touch everything once 1.1; the rest is caches and noise. A curve over numbers of clients is not judged by itself: its rows are.

\`load\` is the machine's load average over a minute before and after: what else ran, and the measurement itself. **On** is what was looked at while we signed, and found on.`;

/**
 * Takes the part into a folder's results, in place of what was measured of the same rows and series before, and makes document and plots
 * anew. A run that was interrupted goes on with \`--only\`.
 */
export function writeResults(folder: string, part: Part, order: readonly string[]): void {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, RESULTS);
  const before = existsSync(path) ? parseParts(readFileSync(path, "utf8")) : [];
  const parts = mergeParts(before, part);
  writeFileSync(path, parts.map((one) => `${JSON.stringify(one)}\n`).join(""));
  writeFileSync(join(folder, DOCUMENT), documentOf(parts, order));
  for (const series of part.series) writeFileSync(join(folder, `${series.id}.svg`), plotSvg(series));
}

function parseParts(text: string): readonly Part[] {
  const lines = text.split("\n").filter((line) => line !== "");
  return lines.map((line) => JSON.parse(line) as Part); // this harness wrote it
}

export function mergeParts(parts: readonly Part[], next: Part): readonly Part[] {
  const anew = new Set([...next.rows, ...next.series].map(({ id }) => id));
  const older = parts.map((part) => ({
    ...part,
    rows: part.rows.filter(({ id }) => !anew.has(id)),
    series: part.series.filter(({ id }) => !anew.has(id)),
  }));
  return [...older, next].filter(({ rows, series }) => rows.length + series.length > 0);
}

/** @param order ids, as they are listed */
export function documentOf(parts: readonly Part[], order: readonly string[]): string {
  const byOrder = <T extends { readonly id: string }>(all: readonly T[]) =>
    all.toSorted((a, b) => order.indexOf(a.id) - order.indexOf(b.id));
  const rows = byOrder(parts.flatMap((part) => part.rows));
  const series = byOrder(parts.flatMap((part) => part.series));
  return `${[
    "# What the benchmark measured",
    "Made by `npm run bench -- --write FOLDER`: rows and series as they were measured last, not edited by hand.",
    HOW_TO_READ,
    ...(rows.length === 0 ? [] : ["## Rows", rowTable(rows), "### What they are", rowNotes(rows)]),
    ...(series.length === 0 ? [] : ["## Series", ...series.flatMap(seriesText)]),
    "## Where and when",
    partTable(parts),
  ].join("\n\n")}\n`;
}

function rowTable(rows: readonly Row[]): string {
  const cells = ({ id, ours, peer, unit, ratio, target, ok }: Row) =>
    `| \`${id}\` | ${ours} ${unit} | ${peer} ${unit} | ${ratio} | ${target} | ${ok ? "ok" : "**missed**"} |`;
  return ["| row | ours | peer | ratio | target | |", "| --- | --- | --- | --- | --- | --- |", ...rows.map(cells)].join(
    "\n",
  );
}

function rowNotes(rows: readonly Row[]): string {
  return rows.map(({ id, what, on }) => `* \`${id}\`: ${what}${onText(on)}`).join("\n");
}

function onText(on: readonly string[] | undefined): string {
  return on === undefined ? "" : `. On: ${on.join(", ")}`;
}

function seriesText(series: Series): readonly string[] {
  const { id, what, x, y, lines, on } = series;
  const sizes = [...new Set(lines.flatMap(({ points }) => points.map((point) => point.x)))].sort((a, b) => a - b);
  const row = (size: number) => [`${size}`, ...lines.map(({ points }) => valueAt(points, size))];
  const judged = lines.some(({ ok }) => ok !== null);
  const table = [
    [axisText(x), ...lines.map(({ name }) => name)],
    ["---", ...lines.map(() => "---")],
    ...sizes.map(row),
    ...(judged ? [["slope", ...lines.map(verdictText)]] : []),
  ];
  return [
    `### ${id}`,
    `${what}. Here: ${axisText(y)}${onText(on)}.`,
    table.map((cells) => `| ${cells.join(" | ")} |`).join("\n"),
    `![${id}](${id}.svg)`,
  ];
}

function valueAt(points: Line["points"], size: number): string {
  return `${points.find(({ x }) => x === size)?.y ?? ""}`;
}

function verdictText({ slope, bound, ok }: Line): string {
  if (ok === null) return "";
  return `${slope}, ${ok ? "ok" : "**missed**"} (at most ${bound})`;
}

function partTable(parts: readonly Part[]): string {
  const cells = ({ at, machine, rows, series }: Part) => {
    const { cpu, cores, kernel, node, loadBefore, loadAfter } = machine;
    const ids = [...rows, ...series].map(({ id }) => id).join(", ");
    return `| ${ids} | ${at} | ${cpu}, ${cores} cores | Linux ${kernel}, Node ${node} | ${loadBefore}, ${loadAfter} |`;
  };
  return ["| what | when | processor | system | load |", "| --- | --- | --- | --- | --- |", ...parts.map(cells)].join(
    "\n",
  );
}
