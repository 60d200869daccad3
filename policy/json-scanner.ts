import { PolicyError } from "./errors.ts";
import type { Json } from "./json.ts";
import { boundedLine } from "./printable.ts";

/** A text that is no JSON of the strict kind, and where. */
export class JsonSyntaxError extends PolicyError {
  /** Of the token that is wrong: UTF-16 code units from the start of the text; its length where it ends too early. */
  readonly offset: number;

  constructor(what: string, expected: string, text: string, offset: number) {
    const got = offset < text.length ? `character at offset ${offset}` : "the end of the document";
    super("ERR_POLICY_MALFORMED", what, { expected, got });
    this.offset = offset;
  }
}

/** Is told of each value of a document in the order of the text, what an object or array holds between its `begin` and `end`. */
export interface JsonVisitor {
  /**
   * @param step the name or index in the object or array that holds the value; null for the document
   * @param name where that name stands; null where there is none
   * @param value where the value begins
   */
  begin(step: string | number | null, name: number | null, value: number): void;
  end(): void;
}

/** Characters of a name that a message shows. */
const MOST_NAME = 64;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
/** One at a time: a pattern for a whole string takes a stack as long as the string. */
const QUOTE_OR_ESCAPE = /["\\]/g;
const SPACE = /[ \t\n\r]*/y;
const LITERALS: ReadonlyMap<string, Json> = new Map([
  ["true", true],
  ["false", false],
  ["null", null],
]);

/** The offset behind the quote that ends a string; of the text's end where none does. @param start behind the first quote */
export function endOfString(text: string, start: number): number {
  let offset = start;
  for (;;) {
    QUOTE_OR_ESCAPE.lastIndex = offset;
    const found = QUOTE_OR_ESCAPE.exec(text);
    if (found === null) return text.length;
    if (found[0] === '"') return found.index + 1;
    offset = found.index + 2;
  }
}

/** One pass over one text; `parseJson` says what is refused. */
export class JsonScanner {
  readonly #text: string;
  readonly #what: string;
  readonly #maxDepth: number;
  readonly #visitor: JsonVisitor | null;
  #offset = 0;

  constructor(text: string, what: string, maxDepth: number, visitor: JsonVisitor | null) {
    this.#text = text;
    this.#what = what;
    this.#maxDepth = maxDepth;
    this.#visitor = visitor;
  }

  document(): Json {
    const value = this.#value(0, null, null);
    this.#space();
    if (this.#offset !== this.#text.length) throw this.#error("the end of the document");
    return value;
  }

  #value(depth: number, step: string | number | null, name: number | null): Json {
    if (depth > this.#maxDepth) throw this.#error(`at most ${this.#maxDepth} levels`);
    this.#space();
    this.#visitor?.begin(step, name, this.#offset);
    const value = this.#anyValue(depth);
    this.#visitor?.end();
    return value;
  }

  #anyValue(depth: number): Json {
    const character = this.#text[this.#offset];
    if (character === "{") return this.#object(depth);
    if (character === "[") return this.#array(depth);
    if (character === '"') return this.#string();
    for (const [word, value] of LITERALS) {
      if (this.#text.startsWith(word, this.#offset)) {
        this.#offset += word.length;
        return value;
      }
    }
    return this.#number();
  }

  #object(depth: number): Json {
    const entries = new Map<string, Json>();
    this.#offset += 1;
    if (this.#accept("}")) return {};
    do {
      this.#space();
      const start = this.#offset;
      const key = this.#string();
      if (entries.has(key) || key === "__proto__")
        throw this.#error(`no duplicate or special key, but "${boundedLine(key, MOST_NAME)}"`, start);
      if (!this.#accept(":")) throw this.#error("':'");
      entries.set(key, this.#value(depth + 1, key, start));
    } while (this.#accept(","));
    if (!this.#accept("}")) throw this.#error("',' or '}'");
    return Object.fromEntries(entries);
  }

  #array(depth: number): Json {
    const items: Json[] = [];
    this.#offset += 1;
    if (this.#accept("]")) return items;
    do {
      items.push(this.#value(depth + 1, items.length, null));
    } while (this.#accept(","));
    if (!this.#accept("]")) throw this.#error("',' or ']'");
    return items;
  }

  #string(): string {
    const start = this.#offset;
    const end = this.#text[start] === '"' ? endOfString(this.#text, start + 1) : start;
    const value = stringOrNull(this.#text.slice(start, end));
    if (value === null) throw this.#error("a string");
    if (!value.isWellFormed()) throw this.#error("a string without lone surrogates");
    this.#offset = end;
    return value;
  }

  #number(): number {
    const start = this.#offset;
    const value = Number(this.#match(NUMBER, "a value"));
    if (!Number.isFinite(value) || (Number.isInteger(value) && !Number.isSafeInteger(value)))
      throw this.#error("an exact number", start);
    return value;
  }

  #match(pattern: RegExp, expected: string): string {
    pattern.lastIndex = this.#offset;
    const found = pattern.exec(this.#text);
    if (found === null) throw this.#error(expected);
    this.#offset += found[0].length;
    return found[0];
  }

  #accept(character: string): boolean {
    this.#space();
    if (this.#text[this.#offset] !== character) return false;
    this.#offset += 1;
    return true;
  }

  #space(): void {
    SPACE.lastIndex = this.#offset;
    this.#offset += SPACE.exec(this.#text)?.[0].length ?? 0;
  }

  #error(expected: string, offset: number = this.#offset): JsonSyntaxError {
    return new JsonSyntaxError(this.#what, expected, this.#text, offset);
  }
}

/** From its first quote to its last, by RFC 8259: no control character, and no escape but the known ones. */
function stringOrNull(json: string): string | null {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === "string" ? value : null;
  } catch {
    return null;
  }
}
