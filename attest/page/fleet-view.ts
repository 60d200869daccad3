/// <reference lib="dom" />
import { ServiceFailure } from "./client.ts";
import { h, replace } from "./dom.ts";
import { emptyFleet } from "./empty-fleet.ts";
import { failureView } from "./failure-view.ts";
import { describeChanges, firstSelection, type Selection, selectRows } from "./fleet-rows.ts";
import { fleetTable } from "./fleet-table.ts";
import { drawTally } from "./fleet-tally.ts";
import { refreshTimes } from "./parts.ts";
import { createPoller } from "./poller.ts";
import { refreshControl } from "./refresh-control.ts";
import { fleetSchema, type Summary } from "./shapes.ts";
import type { Context, View } from "./view.ts";

/** The machines, fetched again and again. */
export function fleetView({ client, announce, askToken }: Context): View {
  let fleet: readonly Summary[] | null = null;
  const problem = h("div", {});
  const content = h("div", {}, h("p", { class: "quiet" }, "Loading \u2026"));
  const list = fleetList();
  const poller = createPoller(
    async () => {
      const now = await client.get("machines", fleetSchema);
      const changes = fleet === null ? "" : describeChanges(fleet, now);
      fleet = now;
      replace(problem);
      refresh.updated(new Date());
      if (fleet.length === 0) replaceOnce(content, "empty", emptyFleet);
      else replaceOnce(content, "list", () => list.node);
      list.show(fleet);
      if (changes !== "") announce(changes);
    },
    (error) => {
      if (error instanceof ServiceFailure && error.kind === "token") return askToken();
      const view = failureView(error);
      // The same failure again is not announced again.
      if (view.textContent !== problem.textContent) replace(problem, view);
      if (fleet === null) replaceOnce(content, "nothing", () => h("p", { class: "quiet" }, "Nothing to show yet."));
      refresh.failed();
    },
  );
  const refresh = refreshControl(poller);
  poller.now();
  const clock = window.setInterval(() => refreshTimes(content), 5000);
  const title = h("div", { class: "title-line" }, h("h1", { tabindex: -1 }, "Machines"), refresh.node);
  return {
    title: "Machines",
    node: h("div", {}, title, problem, content),
    stop() {
      poller.stop();
      refresh.stop();
      clearInterval(clock);
    },
  };
}

/** What was chosen stays as long as the page is open. */
let selection: Selection = firstSelection;

/** Counts, filter and table. */
function fleetList() {
  let fleet: readonly Summary[] = [];
  const tally = h("div", { class: "tally", role: "group", "aria-label": "Show machines by verdict" });
  const count = h("p", { class: "quiet shown-count", role: "status" });
  const table = fleetTable((sort) => choose({ sort, descending: selection.sort === sort && !selection.descending }));
  const filter = filterInput((text) => choose({ text }));
  const choose = (change: Partial<Selection>) => {
    selection = { ...selection, ...change };
    draw();
  };
  const draw = () => {
    const rows = selectRows(fleet, selection);
    drawTally(tally, fleet, selection.state, (state) => choose({ state }));
    table.show(rows, selection);
    count.textContent = rows.length === fleet.length ? "" : `${rows.length} of ${fleet.length} shown`;
  };
  return {
    node: h(
      "div",
      {},
      tally,
      h("div", { class: "tools" }, h("label", { for: filter.id }, "Filter"), filter, count),
      table.node,
    ),
    show(now: readonly Summary[]) {
      fleet = now;
      draw();
    },
  };
}

function filterInput(changed: (text: string) => void): HTMLInputElement {
  const placeholder = "name, release, flag \u2026";
  const filter = h("input", { type: "search", id: "filter", autocomplete: "off", spellcheck: "false", placeholder });
  filter.value = selection.text;
  filter.addEventListener("input", () => changed(filter.value));
  filter.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    filter.value = "";
    changed("");
  });
  return filter;
}

/** Changes what a part shows only when it is to show something else, so that a refresh leaves the focus alone. */
function replaceOnce(parent: HTMLElement, key: string, make: () => HTMLElement): void {
  if (parent.dataset["shows"] === key) return;
  parent.dataset["shows"] = key;
  replace(parent, make());
}
