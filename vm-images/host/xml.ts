import { ImageError } from "../errors.ts";

/** An element: nothing of what stood between its children but the text that they surround. */
export interface XmlElement {
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: readonly XmlElement[];
  /** Character data of the element itself, without that of its children. */
  readonly text: string;
}

export const MAX_TEXT = 1 << 20;
const MAX_DEPTH = 32;
const NAME = /[A-Za-z_][\w.-]*(?::[A-Za-z_][\w.-]*)?/y;
const SPACE = /[ \t\r\n]*/y;
const ENTITIES: ReadonlyMap<string, string> = new Map(
  Object.entries({ amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" }),
);

/**
 * The part of XML 1.0 that libvirt writes: one element, attributes, text, comments, the five named entities and character references.
 * No document type, so no entity that a file defines, no CDATA, no processing instruction but a leading `<?xml ?>`. Pure.
 * @throws ImageError ERR_HOST_MALFORMED
 */
export function parseXml(text: string): XmlElement {
  return new XmlReader(text).document();
}

/** The first child of that name. */
export function child(element: XmlElement | undefined, name: string): XmlElement | undefined {
  return element?.children.find((each) => each.name === name);
}

export function attribute(element: XmlElement | undefined, name: string): string | undefined {
  return element?.attributes.get(name);
}

class XmlReader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    if (text.length > MAX_TEXT) throw refused(0, `at most ${MAX_TEXT} characters`, `${text.length}`);
    this.#text = text.replace(/^\uFEFF/, "");
  }

  document(): XmlElement {
    const declaration = /^\s*<\?xml [^?<>]{0,200}\?>/.exec(this.#text);
    this.#at = declaration?.[0].length ?? 0;
    this.#skipComments();
    const element = this.#element(0);
    this.#skipComments();
    if (this.#at < this.#text.length) throw this.#refused("the end of the document");
    return element;
  }

  #skipComments(): void {
    for (this.#skip(SPACE); this.#text.startsWith("<!--", this.#at); this.#skip(SPACE)) this.#comment();
  }

  #comment(): void {
    const end = this.#text.indexOf("--", this.#at + 4);
    if (end < 0 || this.#text[end + 2] !== ">") throw this.#refused("a comment that ends");
    this.#at = end + 3;
  }

  #element(depth: number): XmlElement {
    if (depth >= MAX_DEPTH) throw this.#refused(`at most ${MAX_DEPTH} levels`);
    this.#require("<");
    const name = this.#match(NAME, "the name of an element");
    const attributes = this.#attributes();
    if (this.#take("/>")) return { name, attributes, children: [], text: "" };
    this.#require(">");
    const content = this.#content(depth);
    this.#require(`</${name}`);
    this.#skip(SPACE);
    this.#require(">");
    return { name, attributes, ...content };
  }

  #attributes(): ReadonlyMap<string, string> {
    const attributes = new Map<string, string>();
    for (;;) {
      const spaced = this.#skip(SPACE) > 0;
      if (this.#text[this.#at] === "/" || this.#text[this.#at] === ">") return attributes;
      if (!spaced) throw this.#refused("a space before an attribute");
      const name = this.#match(NAME, "an attribute");
      if (attributes.has(name)) throw this.#refused(`one attribute ${name}`);
      this.#require("=");
      attributes.set(name, this.#quoted());
    }
  }

  #quoted(): string {
    const quote = this.#text[this.#at];
    if (quote !== '"' && quote !== "'") throw this.#refused("a quoted value");
    const end = this.#text.indexOf(quote, this.#at + 1);
    if (end < 0) throw this.#refused("the end of a quoted value");
    const value = this.#decode(this.#text.slice(this.#at + 1, end));
    this.#at = end + 1;
    return value;
  }

  #content(depth: number): Pick<XmlElement, "children" | "text"> {
    const children: XmlElement[] = [];
    let text = "";
    for (;;) {
      const end = this.#text.indexOf("<", this.#at);
      if (end < 0) throw this.#refused("the end of an element");
      text += this.#decode(this.#text.slice(this.#at, end));
      this.#at = end;
      if (this.#text.startsWith("</", end)) return { children, text };
      if (this.#text.startsWith("<!--", end)) this.#comment();
      else children.push(this.#element(depth + 1));
    }
  }

  #decode(raw: string): string {
    if (raw.includes("<")) throw this.#refused("no < in a value");
    return raw.replaceAll(/&(?:#(\d{1,7})|#x([\da-fA-F]{1,6})|(\w{1,8}))?;?/g, (whole, decimal, hexadecimal, name) => {
      const code = decimal === undefined ? Number.parseInt(hexadecimal ?? "", 16) : Number(decimal);
      const known = ENTITIES.get(name ?? "");
      const character = code >= 0x20 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
      if (!whole.endsWith(";") || (known === undefined && !character && code !== 9 && code !== 10 && code !== 13))
        throw this.#refused("an entity of XML's own");
      return known ?? String.fromCodePoint(code);
    });
  }

  #skip(pattern: RegExp): number {
    pattern.lastIndex = this.#at;
    const length = pattern.exec(this.#text)?.[0].length ?? 0;
    this.#at += length;
    return length;
  }

  #match(pattern: RegExp, expected: string): string {
    const start = this.#at;
    if (this.#skip(pattern) === 0) throw this.#refused(expected);
    return this.#text.slice(start, this.#at);
  }

  #take(token: string): boolean {
    if (!this.#text.startsWith(token, this.#at)) return false;
    this.#at += token.length;
    return true;
  }

  #require(token: string): void {
    if (!this.#take(token)) throw this.#refused(token);
  }

  #refused(expected: string): ImageError {
    const [got = "nothing more"] = this.#text.slice(this.#at, this.#at + 24).split("\n");
    return refused(this.#text.slice(0, this.#at).split("\n").length, expected, got || "nothing more");
  }
}

function refused(line: number, expected: string, got: string): ImageError {
  return new ImageError("ERR_HOST_MALFORMED", `domain XML line ${line}`, { expected, got });
}
