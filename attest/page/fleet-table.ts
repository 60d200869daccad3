/// <reference lib="dom" />
import { machinePath } from "./client.ts";
import { button, type Child, h, nodes, outside } from "./dom.ts";
import type { Selection, SortKey } from "./fleet-rows.ts";
import { stateBadge, tableCell, timeOf } from "./parts.ts";
import { assuranceMeaning, flagMeaning, launchMeaning } from "./plain.ts";
import type { Summary } from "./shapes.ts";

const columns: readonly { readonly key: SortKey; readonly title: string; readonly className?: string }[] = [
  { key: "state", title: "Verdict" },
  { key: "name", title: "Machine", className: "name" },
  { key: "assurance", title: "Assurance" },
  { key: "release", title: "Release" },
  { key: "launch", title: "Launch" },
  { key: "lastSeen", title: "Last seen" },
  { key: "violations", title: "Violations", className: "number" },
  { key: "flags", title: "Flags" },
];

export interface FleetTable {
  readonly node: HTMLElement;
  show(rows: readonly Summary[], selection: Selection): void;
}

interface Row {
  readonly node: HTMLTableRowElement;
  readonly cells: readonly HTMLTableCellElement[];
  shown: string;
}

/** The list of machines. A refresh changes rows in place: focus, selection and scroll stay where they are. */
export function fleetTable(onSort: (key: SortKey) => void): FleetTable {
  const heads = columns.map(({ key, title, className }) => {
    const arrow = h("span", { class: "sort-arrow", "aria-hidden": "true" });
    const node = h(
      "th",
      { role: "columnheader", scope: "col", class: className ?? null },
      button([title, arrow], () => onSort(key), { class: "sort" }),
    );
    return { key, node, arrow };
  });
  const body = h("tbody", { role: "rowgroup" });
  const known = new Map<string, Row>();
  return {
    node: h(
      "table",
      { class: "table fleet", role: "table", "aria-label": "Machines" },
      h(
        "thead",
        { role: "rowgroup" },
        h(
          "tr",
          { role: "row" },
          heads.map(({ node }) => node),
        ),
      ),
      body,
    ),
    show(rows, { sort, descending }) {
      for (const { key, node, arrow } of heads) {
        if (key === sort) node.setAttribute("aria-sort", descending ? "descending" : "ascending");
        else node.removeAttribute("aria-sort");
        arrow.textContent = key === sort ? (descending ? "\u25bc" : "\u25b2") : "";
      }
      arrange(body, known, rows);
    },
  };
}

function arrange(body: HTMLElement, known: Map<string, Row>, rows: readonly Summary[]): void {
  const focused = document.activeElement;
  const wanted = new Set(rows.map(({ name }) => name));
  for (const [name, row] of known) {
    if (wanted.has(name)) continue;
    row.node.remove();
    known.delete(name);
  }
  for (const [index, summary] of rows.entries()) {
    const row = known.get(summary.name) ?? newRow(summary.name);
    known.set(summary.name, row);
    fill(row, summary);
    if (body.children[index] !== row.node) body.insertBefore(row.node, body.children[index] ?? null);
  }
  // A row that moves loses the focus that was in it.
  if (focused instanceof HTMLElement && focused !== document.activeElement && body.contains(focused))
    focused.focus({ preventScroll: true });
}

function newRow(name: string): Row {
  const link = h("a", { href: `#/${machinePath(name)}` }, outside(name));
  const cells = columns.map((column) => tableCell(column, column.key === "name" ? link : null));
  return { node: h("tr", { role: "row" }, cells), cells, shown: "" };
}

function fill(row: Row, summary: Summary): void {
  const shown = JSON.stringify(summary);
  if (row.shown === shown) return;
  row.shown = shown;
  for (const [index, { key }] of columns.entries())
    if (key !== "name") row.cells[index]?.replaceChildren(...nodes([contentOf(key, summary)]));
}

function contentOf(key: SortKey, row: Summary): Child {
  const contents: Readonly<Record<SortKey, () => Child>> = {
    name: () => null,
    state: () => stateBadge(row.state),
    assurance: () => h("span", { title: assuranceMeaning(row.assurance) }, row.assurance),
    release: () => (row.release === null ? nothing("none") : outside(row.release)),
    launch: () =>
      row.launch === null ? nothing("unknown") : h("span", { title: launchMeaning(row.launch) }, row.launch),
    lastSeen: () => timeOf(row.lastSeen),
    violations: () => h("span", { class: (row.violations ?? 0) > 0 ? "differs" : "quiet" }, `${row.violations ?? 0}`),
    flags: () => (row.flags.length === 0 ? nothing("none") : flagList(row.flags)),
  };
  return contents[key]();
}

export function flagList(flags: readonly string[]): HTMLElement {
  return h(
    "ul",
    { class: "flags" },
    flags.map((flag) => h("li", { class: "flag", title: flagMeaning(flag) }, flag)),
  );
}

function nothing(word: string): HTMLElement {
  return h("span", { class: "quiet" }, word);
}
