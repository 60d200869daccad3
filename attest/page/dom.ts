/// <reference lib="dom" />
/// <reference lib="dom.iterable" />

/** What can stand inside an element; `null` and `false` stand for nothing. */
export type Child = Node | string | number | null | false | readonly Child[];
export type Attributes = Readonly<Record<string, string | number | boolean | null>>;

/** Letters that show nothing although Unicode counts them as letters. */
const blanks = new Set(["\u115f", "\u1160", "\u3164", "\uffa0", "\u2800"]);
const maxText = 4096;

/**
 * Text from outside as it may be shown: what a reader could not see, or what would turn the text around it (control, format, bidi,
 * zero-width, private and unassigned characters), stands there as its number.
 */
export function visible(text: string): string {
  const cut = text.length > maxText ? `${text.slice(0, maxText)} (and ${text.length - maxText} characters more)` : text;
  return Array.from(cut, (character) => {
    const hidden = /[\p{C}\p{Zl}\p{Zp}]/u.test(character) || blanks.has(character);
    return hidden
      ? `\u27e8U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`
      : character;
  }).join("");
}

/** Attributes that would run or load something, or that the page's policy forbids. */
const forbidden = /^(?:on.*|style|src|srcdoc|action|formaction)$/i;

/**
 * The only place where the page makes elements. Text becomes text nodes and goes through `visible`, so no caller can forget it, and
 * nothing from outside is ever read as markup. Links lead inside the page only.
 */
export function h<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[Name] {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) setAttribute(element, key, value);
  element.append(...nodes(children));
  return element;
}

function setAttribute(element: Element, key: string, value: string | number | boolean | null): void {
  if (value === null || value === false) return;
  const text = value === true ? "" : visible(`${value}`);
  if (forbidden.test(key)) throw new TypeError(`attribute ${key} is not for this page`);
  if (key === "href" && !text.startsWith("#")) throw new TypeError("a link leads inside the page only");
  element.setAttribute(key, text);
}

export function nodes(children: readonly Child[]): readonly Node[] {
  return children.flatMap((child): readonly Node[] => {
    if (child === null || child === false) return [];
    if (typeof child === "string" || typeof child === "number") return [document.createTextNode(visible(`${child}`))];
    return child instanceof Node ? [child] : nodes(child);
  });
}

export function replace(parent: Element, ...children: readonly Child[]): void {
  parent.replaceChildren(...nodes(children));
}

/** Text that somebody else chose, kept apart from the direction of the text around it. */
export function outside(text: string, className = ""): HTMLElement {
  return h("bdi", { class: className === "" ? null : className }, text);
}

export function button(label: Child, act: () => void, attributes: Attributes = {}): HTMLButtonElement {
  const made = h("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", act);
  return made;
}

let ids = 0;
/** An id that no other element of the page has. */
export function uniqueId(stem: string): string {
  ids += 1;
  return `${stem}-${ids}`;
}

/** A part of a page with its heading as its name. */
export function section(title: string, attributes: Attributes, ...children: readonly Child[]): HTMLElement {
  const id = uniqueId("section");
  return h("section", { "aria-labelledby": id, ...attributes }, h("h2", { id, tabindex: -1 }, title), ...children);
}
