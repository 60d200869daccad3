import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { parseXml, type XmlElement } from "../../vm-images/host/xml.ts";
import type { Machine, Row } from "./bench.ts";
import { documentOf, mergeParts, type Part, writeResults } from "./document.ts";
import { type Growth, lineOf, type Point, type Series, sizesFor, slopeOf } from "./series.ts";
import { plotSvg } from "./svg.ts";

const SIZES = [10, 30, 100, 300, 1000, 3000, 10_000];
const folder = mkdtempSync(join(tmpdir(), "ironclaw-results-"));
afterAll(() => rmSync(folder, { recursive: true }));

const over = (cost: (size: number) => number): readonly Point[] => SIZES.map((x) => ({ x, y: cost(x) }));

function seriesOf(id: string, ...lines: readonly (readonly [string, Growth, readonly Point[]])[]): Series {
  return {
    ...{ id, what: "Something", x: { name: "sizes", unit: "" }, y: { name: "time", unit: "ms" } },
    lines: lines.map(([name, growth, points]) => lineOf(name, growth, points)),
  };
}

const machine: Machine = { cpu: "one", cores: 2, kernel: "6", node: "v26", loadBefore: 0.1, loadAfter: 1.5 };
const rowOf = (id: string, ours: number): Row => ({
  ...{ id, what: `what ${id} is`, ours, peer: 1, unit: "ms", ratio: ours, target: 2, ok: ours <= 2 },
});
const partOf = (at: string, rows: readonly Row[], series: readonly Series[] = []): Part => ({
  ...{ at, machine, rows, series },
});

function elements(element: XmlElement, name: string): readonly XmlElement[] {
  const own = element.name === name ? [element] : [];
  return [...own, ...element.children.flatMap((child) => elements(child, name))];
}

describe("the growth of a cost", () => {
  it.each([
    ["constant", () => 3, 0, { constant: true, linear: true }],
    ["logarithmic", (x: number) => Math.log(x), 0.14, { constant: true, linear: true }],
    ["linear", (x: number) => 0.2 * x, 1, { constant: false, linear: true }],
    ["linear behind a great constant", (x: number) => 1000 + x, 0.61, { constant: false, linear: true }],
    ["linear with logarithm", (x: number) => x * Math.log2(x), 1.13, { constant: false, linear: false }],
    ["quadratic", (x: number) => 0.001 * x * x, 2, { constant: false, linear: false }],
    ["quadratic at the end", (x: number) => x + 0.003 * x * x, 1.8, { constant: false, linear: false }],
  ])("that is %s is judged as that", (_what, cost, slope, verdict) => {
    for (const growth of ["constant", "linear"] as const) {
      const line = lineOf("line", growth, over(cost));
      expect(line.slope).toBeCloseTo(slope, 1);
      expect(line.ok, growth).toBe(verdict[growth]);
    }
    expect(lineOf("line", null, over(cost))).toMatchObject({ bound: null, ok: null });
  });

  it("is the slope over the upper half of the sizes, in whatever order they came", () => {
    const bent = SIZES.map((x) => ({ x, y: x < 300 ? 1000 / x : x }));
    expect(slopeOf(bent)).toBeCloseTo(1, 6);
    expect(lineOf("line", "linear", bent.toReversed())).toEqual(lineOf("line", "linear", bent));
    expect([slopeOf([]), slopeOf(bent.slice(0, 1))]).toEqual([null, null]);
    expect(slopeOf(bent.slice(0, 2))).toBeCloseTo(-1, 6);
    expect([sizesFor(SIZES, 8), sizesFor(SIZES, 1)]).toEqual([SIZES, [10, 30, 100]]);
  });
});

describe("a plot", () => {
  it("is one well-formed element with a mark for each point, the axes' units and the lines' names", () => {
    const points = over((x) => 0.5 * x);
    const svg = plotSvg(seriesOf("growth-x", ["a < b & c", "linear", points], ["other", null, points.slice(0, 3)]));
    const root = parseXml(svg);
    expect(root.name).toBe("svg");
    const marks = [elements(root, "circle").length, elements(root, "rect").length];
    expect(marks).toEqual([SIZES.length + 1, 3 + 1]); // one of each is the legend's
    const texts = elements(root, "text").map(({ text }) => text);
    expect(texts).toEqual(expect.arrayContaining(["growth-x", "a < b & c", "other", "1000", "10 k"]));
    expect(texts).toEqual(expect.arrayContaining(["sizes, logarithmic", "time (ms), logarithmic"]));
    expect(svg).toContain("prefers-color-scheme: dark");
  });

  it("keeps every point inside its area, whatever there is to plot", () => {
    for (const cost of [() => 7, (x: number) => x ** 3, () => 0, (x: number) => 1e-4 * x]) {
      const root = parseXml(plotSvg(seriesOf("growth-y", ["line", "linear", over(cost)])));
      const places = elements(root, "circle").map(({ attributes }) => [
        Number(attributes.get("cx")),
        Number(attributes.get("cy")),
      ]);
      for (const [x = Number.NaN, y = Number.NaN] of places.slice(0, -1))
        expect(x >= 76 && x <= 480 && y >= 44 && y <= 340, `${x} ${y}`).toBe(true);
    }
  });
});

describe("the results' document", () => {
  const order = ["a", "b", "growth-x"];

  it("has what was measured last of every row and series, in the harness's order", () => {
    const first = partOf("2026-01-01T00:00:00.000Z", [rowOf("b", 1), rowOf("a", 1)]);
    const second = partOf("2026-01-02T00:00:00.000Z", [rowOf("b", 3)]);
    expect(mergeParts([first], second)).toEqual([{ ...first, rows: [rowOf("a", 1)] }, second]);
    expect(mergeParts([second], second)).toEqual([second]);
    const text = documentOf(mergeParts([first], second), order);
    expect(text).toMatch(
      /\| `a` \| 1 ms \| 1 ms \| 1 \| 2 \| ok \|\n\| `b` \| 3 ms \| 1 ms \| 3 \| 2 \| \*\*missed\*\* \|/,
    );
    expect(text).toContain("| b | 2026-01-02T00:00:00.000Z | one, 2 cores | Linux 6, Node v26 | 0.1, 1.5 |");
  });

  it("is made anew with each part, beside plots, and keeps the parts before", () => {
    const points = over((x) => 0.001 * x * x);
    writeResults(folder, partOf("2026-01-01T00:00:00.000Z", [{ ...rowOf("a", 1), on: ["policy", "audit"] }]), order);
    const grown = seriesOf("growth-x", ["all", "linear", points], ["some", "constant", points.slice(0, 2)]);
    writeResults(folder, partOf("2026-01-02T00:00:00.000Z", [], [grown]), order);
    expect(readdirSync(folder).sort()).toEqual(["README.md", "growth-x.svg", "results.jsonl"]);
    const text = readFileSync(join(folder, "README.md"), "utf8");
    expect(text).toContain("* `a`: what a is. On: policy, audit");
    expect(text).toContain("| sizes | all | some |\n| --- | --- | --- |\n| 10 | 0.1 | 0.1 |");
    expect(text).toContain(
      "| 10000 | 100000 |  |\n| slope | 2, **missed** (at most 1.1) | 2, **missed** (at most 0.15) |",
    );
    expect(text).toContain("![growth-x](growth-x.svg)");
  });
});
