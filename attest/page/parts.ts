/// <reference lib="dom" />
import { button, type Child, h } from "./dom.ts";
import { icon } from "./icons.ts";
import { inPieces } from "./pieces.ts";
import { type State, states, stateWords } from "./plain.ts";
import { absoluteTime, relativeTime } from "./time.ts";

/** A state as drawing and word and colour; a state that this page does not know is shown by its name and looks like a doubt. */
export function stateBadge(state: string, size: "small" | "large" = "small"): HTMLElement {
  const known = knownState(state);
  const { word, icon: name, means } = stateWords[known ?? "warning"];
  return h(
    "span",
    { class: `badge badge-${size} tone-${known ?? "warning"}`, title: known === null ? null : means },
    icon(name),
    h("span", {}, known === null ? state : word),
  );
}

export function knownState(state: string): State | null {
  return states.find((known) => known === state) ?? null;
}

/** Relative for the eye, absolute beside it. */
export function timeOf(iso: string | null, now = new Date()): HTMLElement {
  if (iso === null) return h("span", { class: "quiet" }, "never");
  return h(
    "time",
    { datetime: iso, class: "time" },
    h("span", { class: "time-relative", "data-time": iso }, relativeTime(iso, now)),
    " ",
    h("span", { class: "time-absolute" }, absoluteTime(iso)),
  );
}

/** Brings every relative time below `node` up to date. */
export function refreshTimes(node: Element, now = new Date()): void {
  for (const part of node.querySelectorAll("[data-time]"))
    part.textContent = relativeTime(part.getAttribute("data-time") ?? "", now);
}

export interface Column {
  readonly title: string;
  readonly className?: string;
}

/** Cells of a row, or how to make them once the row is to be shown. */
export type Row = readonly Child[] | (() => readonly Child[]);

/**
 * A table that becomes a list of cards on narrow screens. The roles are written out, because browsers drop those of table elements
 * that are laid out as something else. Long ones are shown in pieces.
 */
export function table(label: string, columns: readonly Column[], rows: readonly Row[], className = ""): HTMLElement {
  const head = columns.map(({ title, className: own }) =>
    h("th", { role: "columnheader", scope: "col", class: own ?? null }, title),
  );
  const body = h("tbody", { role: "rowgroup" });
  const more = inPieces(body, rows, (row) => {
    const cells = typeof row === "function" ? row() : row;
    return h(
      "tr",
      { role: "row" },
      cells.map((cell, index) => tableCell(columns[index], cell)),
    );
  });
  const whole = h(
    "table",
    { class: `table ${className}`.trim(), role: "table", "aria-label": label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    body,
  );
  return more === null ? whole : h("div", {}, whole, more);
}

export function tableCell(column: Column | undefined, ...children: readonly Child[]): HTMLTableCellElement {
  return h("td", { role: "cell", class: column?.className ?? null, "data-label": column?.title ?? null }, ...children);
}

/** Names and values, one a line. */
export function facts(pairs: readonly (readonly [string, Child])[]): HTMLElement {
  return h(
    "dl",
    { class: "facts" },
    pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** Ways to the sections of `whole`; their headings take the focus, and the address stays. */
export function contentsOf(whole: Element): HTMLElement {
  const headings = [...whole.querySelectorAll<HTMLElement>("section > h2")];
  const go = (heading: HTMLElement) => {
    heading.scrollIntoView({ block: "start" });
    heading.focus({ preventScroll: true });
  };
  const items = headings.map((heading) =>
    button((heading.textContent ?? "").replace(/ \(\d+\)$/, ""), () => go(heading), { class: "link" }),
  );
  return h("nav", { class: "contents", "aria-label": "On this page" }, items);
}
