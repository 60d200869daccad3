import type { JsonVisitor } from "./json-scanner.ts";

/** Where something stands in a text, as editors count: both from 1, the column in UTF-16 code units. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** Names and indices from the document inwards. */
export type JsonPath = readonly (string | number)[];

interface Place {
  /** Of the value's name; null for an element of an array and for the document. */
  readonly name: number | null;
  readonly value: number;
  readonly inside: Map<string | number, Place>;
}

/** Where each value of a document stands: a visitor for the reader, asked afterwards. Grows with the text, not with the length of paths. */
export class JsonPositions implements JsonVisitor {
  #document: Place | null = null;
  readonly #open: Place[] = [];

  begin(step: string | number | null, name: number | null, value: number): void {
    const place: Place = { name, value, inside: new Map() };
    const holder = this.#open.at(-1);
    if (step === null || holder === undefined) this.#document = place;
    else holder.inside.set(step, place);
    this.#open.push(place);
  }

  end(): void {
    this.#open.pop();
  }

  /** Does the document have a value there? */
  has(path: JsonPath): boolean {
    return this.#follow(path).length === path.length + 1;
  }

  /**
   * The offset to show for a path: of the name where one holds an object or array, or where `at` asks for it; else of the value. Of what is not there:
   * the innermost that is there and should hold it.
   */
  offsetOf(path: JsonPath, at: "name" | "value" = "value"): number {
    const places = this.#follow(path);
    const last = places.at(-1);
    if (last === undefined) return 0;
    const wantsName = (at === "name" && places.length === path.length + 1) || last.inside.size > 0;
    return wantsName ? (last.name ?? last.value) : last.value;
  }

  /** The document, then what each step leads to, as far as they do. */
  #follow(path: JsonPath): readonly Place[] {
    const found: Place[] = this.#document === null ? [] : [this.#document];
    for (const step of path) {
      const next = found.at(-1)?.inside.get(step);
      if (next === undefined) break;
      found.push(next);
    }
    return found;
  }
}

/** Line and column of an offset in UTF-16 code units. A line ends with its line feed. */
export class LineIndex {
  readonly #starts: readonly number[];

  constructor(text: string) {
    const starts = [0];
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", end + 1)) starts.push(end + 1);
    this.#starts = starts;
  }

  positionOf(offset: number): Position {
    let [low, high] = [0, this.#starts.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if ((this.#starts[middle] ?? 0) <= offset) low = middle;
      else high = middle - 1;
    }
    return { line: low + 1, column: offset - (this.#starts[low] ?? 0) + 1 };
  }
}
