/** What something cost at one size. */
export interface Point {
  readonly x: number;
  readonly y: number;
}

/**
 * How a cost may grow. `constant`: a lookup, whatever there is to look in. `linear`: what has to touch everything once. Null: a curve that
 * nobody judges by itself.
 */
export type Growth = "constant" | "linear" | null;

/** The greatest slope in double logarithms that still counts as such: 1 is linear, 2 quadratic. What is above is caches and noise. */
export const BOUNDS = { constant: 0.15, linear: 1.1 } as const;

export interface Line {
  readonly name: string;
  readonly growth: Growth;
  /** By size, ascending. */
  readonly points: readonly Point[];
  /** The exponent over the upper half of the sizes; null for fewer than two points. */
  readonly slope: number | null;
  readonly bound: number | null;
  /** Whether the slope keeps its bound; null where nothing is judged. */
  readonly ok: boolean | null;
}

export interface Axis {
  readonly name: string;
  readonly unit: string;
}

/** As it stands on a plot and over a table's column. */
export function axisText({ name, unit }: Axis): string {
  return unit === "" ? name : `${name} (${unit})`;
}

/** Costs over sizes: one table and one plot. */
export interface Series {
  readonly id: string;
  /** What is measured, and what stands in the way of more. */
  readonly what: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly lines: readonly Line[];
  /** What was on meanwhile, where something is signed. */
  readonly on?: readonly string[];
}

export function lineOf(name: string, growth: Growth, measured: readonly Point[]): Line {
  const points = measured.toSorted((a, b) => a.x - b.x).map(({ x, y }) => ({ x, y: significant(y) }));
  const slope = slopeOf(points);
  const bound = growth === null ? null : BOUNDS[growth];
  const ok = slope === null || bound === null ? null : slope <= bound;
  return { name, growth, points, slope: slope === null ? null : Math.round(100 * slope) / 100, bound, ok };
}

/**
 * The slope of the least squares through the upper half of the points, both axes logarithmic: the exponent with which the cost grows. What is
 * the same at every size hides it at the small ones.
 */
export function slopeOf(points: readonly Point[]): number | null {
  const upper = points.slice(Math.min(Math.floor(points.length / 2), Math.max(0, points.length - 2)));
  const logs = upper.map(({ x, y }) => ({ x: Math.log(x), y: Math.log(y) }));
  const mean = (take: (log: Point) => number) => logs.reduce((sum, log) => sum + take(log), 0) / logs.length;
  const [x, y] = [mean((log) => log.x), mean((log) => log.y)];
  const spread = logs.reduce((sum, log) => sum + (log.x - x) ** 2, 0);
  if (!(spread > 0)) return null;
  return logs.reduce((sum, log) => sum + (log.x - x) * (log.y - y), 0) / spread;
}

/** Points by the name of their line, as they come. */
export class Measured {
  readonly #points = new Map<string, Point[]>();

  add(name: string, x: number, y: number): void {
    const points = this.#points.get(name) ?? [];
    points.push({ x, y });
    this.#points.set(name, points);
  }

  /** The lines of these names, in their order. */
  lines(named: Readonly<Record<string, Growth>>): readonly Line[] {
    return Object.entries(named).map(([name, growth]) => lineOf(name, growth, this.#points.get(name) ?? []));
  }
}

/** Three digits say enough of a measurement. */
export function significant(value: number): number {
  return Number(value.toPrecision(3));
}

/** Iterations from which on every size is measured; fewer end with the third. */
const ALL_SIZES = 8;

export function sizesFor(sizes: readonly number[], iterations: number): readonly number[] {
  return iterations >= ALL_SIZES ? sizes : sizes.slice(0, 3);
}
