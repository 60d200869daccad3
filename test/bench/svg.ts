import { axisText, type Line, type Point, type Series } from "./series.ts";

const WIDTH = 720;
const HEIGHT = 400;
/** Of the area that is plotted; names of the lines stand to its right. */
const AREA = { left: 76, top: 44, right: 480, bottom: 340 };
/** Readable on white and on black; the order is that of the lines. */
const COLOURS = ["#3b82f6", "#e2711d", "#2a9d6f", "#c2478f", "#8b7fd6", "#9a8a1f"];
/** Colours are not for everybody: each line has a mark and dashes of its own, too. */
const DASHES = ["", "7 4", "2 4", "10 4 2 4", "4 2", "1 3"];
const STYLE = `
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 14px; font-weight: 600 }
  .grid { stroke: #8b949e; stroke-opacity: 0.3 }
  .axis { stroke: #57606a; fill: none }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .axis { stroke: #9ea7b3 } }
`;

/** A plot with logarithmic axes, one line for each of the series. It stands by itself: no fonts, no scripts, no background. */
export function plotSvg({ id, x, y, lines }: Series): string {
  const points = lines.flatMap((line) => line.points).filter(isPlotted);
  const across = scaleOf(
    points.map((point) => point.x),
    [AREA.left, AREA.right],
  );
  const up = scaleOf(
    points.map((point) => point.y),
    [AREA.bottom, AREA.top],
  );
  const label = `${id}: ${axisText(y)} over ${axisText(x)}`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escaped(label)}">`,
    `<style>${STYLE}</style>`,
    `<text class="title" x="${AREA.left}" y="24">${escaped(id)}</text>`,
    ...across.ticks.map(
      (tick) => vertical(across.at(tick)) + text(across.at(tick), AREA.bottom + 18, "middle", short(tick)),
    ),
    ...up.ticks.map((tick) => horizontal(up.at(tick)) + text(AREA.left - 8, up.at(tick) + 4, "end", short(tick))),
    `<path class="axis" d="M${AREA.left} ${AREA.top}V${AREA.bottom}H${AREA.right}"/>`,
    text((AREA.left + AREA.right) / 2, HEIGHT - 18, "middle", `${axisText(x)}, logarithmic`),
    `<text transform="translate(16 ${(AREA.top + AREA.bottom) / 2}) rotate(-90)" text-anchor="middle">${escaped(axisText(y))}, logarithmic</text>`,
    ...lines.map((line, index) => lineSvg(line, index, { across, up })),
    "</svg>\n",
  ].join("\n");
}

interface Scale {
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
}

/** Decades, with 2 and 5 between them where there are few. Half a decade at least, so that a constant is a flat line in the middle. */
function scaleOf(values: readonly number[], [from, to]: readonly [number, number]): Scale {
  const least = values.length === 0 ? 1 : Math.min(...values);
  const most = values.length === 0 ? 10 : Math.max(...values);
  const room = Math.max(0, 0.5 - Math.log10(most / least)) / 2;
  const low = Math.log10(least) - room - 0.05;
  const high = Math.log10(most) + room + 0.05;
  const at = (value: number) => Math.round(10 * (from + ((Math.log10(value) - low) / (high - low)) * (to - from))) / 10;
  const between = (steps: readonly number[]) =>
    Array.from({ length: Math.ceil(high) - Math.floor(low) + 1 }, (_, index) => Math.floor(low) + index)
      .flatMap((decade) => steps.map((step) => Number(`${step}e${decade}`)))
      .filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
  const decades = between([1]);
  return { at, ticks: decades.length >= 3 ? decades : between([1, 2, 5]) };
}

function lineSvg({ name, points }: Line, index: number, { across, up }: { across: Scale; up: Scale }): string {
  const colour = COLOURS[index % COLOURS.length] ?? "";
  const placed = points.filter(isPlotted).map((point) => ({ x: across.at(point.x), y: up.at(point.y) }));
  const path = placed.map(({ x, y }, at) => `${at === 0 ? "M" : "L"}${x} ${y}`).join("");
  const dash = DASHES[index % DASHES.length] ?? "";
  const legend = { x: AREA.right + 24, y: AREA.top + 8 + 34 * index };
  const stroke = `stroke="${colour}" stroke-width="2" fill="none"${dash === "" ? "" : ` stroke-dasharray="${dash}"`}`;
  const words = splitName(name);
  return [
    `<path d="${path}" ${stroke}/>`,
    ...placed.map((point) => markSvg(point, index, colour)),
    `<path d="M${legend.x - 14} ${legend.y}H${legend.x + 14}" ${stroke}/>`,
    markSvg(legend, index, colour),
    ...words.map((part, at) => text(legend.x + 20, legend.y + 4 + 14 * at, "start", part)),
  ].join("\n");
}

/** Circle, square, triangle, diamond. */
function markSvg({ x, y }: Point, index: number, colour: string): string {
  const shapes = [
    `<circle cx="${x}" cy="${y}" r="3.5" fill="${colour}"/>`,
    `<rect x="${x - 3.5}" y="${y - 3.5}" width="7" height="7" fill="${colour}"/>`,
    `<path d="M${x} ${y - 4.5}l4.5 8h-9z" fill="${colour}"/>`,
    `<path d="M${x} ${y - 5}l5 5l-5 5l-5 -5z" fill="${colour}"/>`,
  ];
  return shapes[index % shapes.length] ?? "";
}

/** In two lines at most, where a name is too long for the room beside the area. */
function splitName(name: string): readonly string[] {
  const words = name.split(" ");
  const first: string[] = [];
  while (words.length > 0 && [...first, words[0]].join(" ").length <= 30) first.push(words.shift() ?? "");
  return [first.join(" "), words.join(" ")].filter((part) => part !== "");
}

/** A logarithm has no place for what is not above zero. */
function isPlotted({ x, y }: Point): boolean {
  return x > 0 && y > 0;
}

function vertical(x: number): string {
  return `<path class="grid" d="M${x} ${AREA.top}V${AREA.bottom}"/>`;
}

function horizontal(y: number): string {
  return `<path class="grid" d="M${AREA.left} ${y}H${AREA.right}"/>`;
}

function text(x: number, y: number, anchor: "start" | "middle" | "end", content: string): string {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}">${escaped(content)}</text>`;
}

/** 20 k, 1 M: a tick has little room. */
function short(value: number): string {
  if (value >= 1e6) return `${value / 1e6} M`;
  return value >= 1e4 ? `${value / 1e3} k` : `${value}`;
}

function escaped(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
