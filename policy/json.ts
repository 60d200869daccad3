import { PolicyError } from "./errors.ts";

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

export interface JsonLimits {
  /** Bytes of the document. */
  readonly maxBytes: number;
  /** Objects and arrays inside each other. */
  readonly maxDepth: number;
}

const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
// biome-ignore lint/suspicious/noControlCharactersInRegex: RFC 8259 forbids exactly these inside a string
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SPACE = /[ \t\n\r]*/y;
const LITERALS: ReadonlyMap<string, Json> = new Map([
  ["true", true],
  ["false", false],
  ["null", null],
]);

/**
 * Reads one JSON text (RFC 8259), stricter than `JSON.parse`: a duplicate key in an object, a `__proto__` key, an integer that is not exact,
 * invalid UTF-8, a byte order mark and a lone surrogate are refused, because two readers could understand them differently.
 * @param what names the document in errors
 * @throws PolicyError `ERR_POLICY_MALFORMED`
 */
export function parseJson(bytes: Uint8Array, what: string, limits: JsonLimits): Json {
  if (bytes.length > limits.maxBytes) {
    throw new PolicyError("ERR_POLICY_MALFORMED", `${what}: size`, {
      expected: `at most ${limits.maxBytes} bytes`,
      got: `${bytes.length}`,
    });
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new PolicyError("ERR_POLICY_MALFORMED", what, { expected: "utf-8", got: "other bytes", cause });
  }
  const scanner = new JsonScanner(text, what, limits.maxDepth);
  return scanner.document();
}

class JsonScanner {
  readonly #text: string;
  readonly #what: string;
  readonly #maxDepth: number;
  #offset = 0;

  constructor(text: string, what: string, maxDepth: number) {
    this.#text = text;
    this.#what = what;
    this.#maxDepth = maxDepth;
  }

  document(): Json {
    const value = this.#value(0);
    this.#space();
    if (this.#offset !== this.#text.length) throw this.#error("the end of the document");
    return value;
  }

  #value(depth: number): Json {
    if (depth > this.#maxDepth) throw this.#error(`at most ${this.#maxDepth} levels`);
    this.#space();
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
      const key = this.#string();
      if (entries.has(key) || key === "__proto__")
        throw this.#error(`no duplicate or special key, but ${JSON.stringify(key)}`);
      if (!this.#accept(":")) throw this.#error("':'");
      entries.set(key, this.#value(depth + 1));
    } while (this.#accept(","));
    if (!this.#accept("}")) throw this.#error("',' or '}'");
    return Object.fromEntries(entries);
  }

  #array(depth: number): Json {
    const items: Json[] = [];
    this.#offset += 1;
    if (this.#accept("]")) return items;
    do {
      items.push(this.#value(depth + 1));
    } while (this.#accept(","));
    if (!this.#accept("]")) throw this.#error("',' or ']'");
    return items;
  }

  #string(): string {
    const value: unknown = JSON.parse(this.#match(STRING, "a string"));
    if (typeof value !== "string" || !value.isWellFormed()) throw this.#error("a string without lone surrogates");
    return value;
  }

  #number(): number {
    const value = Number(this.#match(NUMBER, "a value"));
    if (!Number.isFinite(value) || (Number.isInteger(value) && !Number.isSafeInteger(value)))
      throw this.#error("an exact number");
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

  #error(expected: string): PolicyError {
    const got = this.#offset < this.#text.length ? `character at offset ${this.#offset}` : "the end of the document";
    return new PolicyError("ERR_POLICY_MALFORMED", this.#what, { expected, got });
  }
}
