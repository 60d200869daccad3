/// <reference lib="dom" />
import { ServiceFailure } from "./client.ts";
import { button, h, replace } from "./dom.ts";
import { emptyFleet } from "./empty-fleet.ts";
import { failureView } from "./failure-view.ts";
import { countByState, describeChanges, firstSelection, type Selection, selectRows } from "./fleet-rows.ts";
import { fleetTable } from "./fleet-table.ts";
import { refreshTimes, stateBadge } from "./parts.ts";
import { states } from "./plain.ts";
import { createPoller } from "./poller.ts";
import { refreshControl } from "./refresh-control.ts";
import { fleetSchema, type Summary } from "./shapes.ts";
import type { Context, View } from "./view.ts";

/** The list of machines. What was chosen stays as long as the page is open. */
let selection: Selection = firstSelection;

export function fleetView({ client, announce, askToken }: Context): View {
  let fleet: readonly Summary[] | null = null;
  const problem = h("div", {});
  const content = h("div", {});
  const tally = h("div", { class: "tally", role: "group", "aria-label": "Show machines by verdict" });
  const summary = h("p", { class: "quiet shown-count", role: "status" });
  const table = fleetTable((sort) => choose({ sort, descending: selection.sort === sort && !selection.descending }));
  const filter = h("input", { type: "search", id: "filter", autocomplete: "off", spellcheck: "false", placeholder: "name, release, flag \u2026" });
  filter.value = selection.text;
  filter.addEventListener("input", () => choose({ text: filter.value }));
  filter.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    filter.value = "";
    choose({ text: "" });
  });

  const choose = (change: Partial<Selection>) => {
    selection = { ...selection, ...change };
    draw();
  };
  const list = h(
    "div",
    {},
    tally,
    h("div", { class: "tools" }, h("label", { for: "filter" }, "Filter"), filter, summary),
    table.node,
  );
  const draw = () => {
    if (fleet === null) return;
    if (fleet.length === 0) return replaceOnce(content, "empty", () => emptyFleet());
    replaceOnce(content, "list", () => list);
    const rows = selectRows(fleet, selection);
    drawTally(tally, fleet, selection.state, (state) => choose({ state }));
    table.show(rows, selection);
    summary.textContent = rows.length === fleet.length ? "" : `${rows.length} of ${fleet.length} shown`;
  };
  const poller = createPoller(
    async () => {
      const now = await client.get("machines", fleetSchema);
      const changes = fleet === null ? "" : describeChanges(fleet, now);
      fleet = now;
      replace(problem);
      refresh.updated(new Date());
      draw();
      if (changes !== "") announce(changes);
    },
    (error) => {
      if (error instanceof ServiceFailure && error.kind === "token") return askToken();
      replace(problem, failureView(error));
      refresh.failed();
    },
  );
  const refresh = refreshControl(poller);
  poller.now();
  const clock = window.setInterval(() => refreshTimes(content), 5000);
  return {
    title: "Machines",
    node: h("div", {}, h("div", { class: "title-line" }, h("h1", { tabindex: -1 }, "Machines"), refresh.node), problem, content),
    stop() {
      poller.stop();
      refresh.stop();
      clearInterval(clock);
    },
  };
}

/** Changes what a part shows only when it is to show something else, so that a refresh leaves the focus alone. */
function replaceOnce(parent: HTMLElement, key: string, make: () => HTMLElement): void {
  if (parent.dataset["shows"] === key) return;
  parent.dataset["shows"] = key;
  replace(parent, make());
}

/** Counts that are filters at the same time. */
function drawTally(parent: HTMLElement, fleet: readonly Summary[], chosen: string | null, choose: (state: string | null) => void): void {
  const counts = countByState(fleet);
  const known = new Set<string>(states);
  const present = [...states.filter((state) => counts.has(state) || state === chosen), ...[...counts.keys()].filter((state) => !known.has(state))];
  const wanted = ["", ...present];
  const buttons = [...parent.querySelectorAll("button")];
  if (buttons.map((found) => found.dataset["state"]).join("\n") !== wanted.join("\n")) {
    const make = (state: string) => {
      const label = state === "" ? h("span", { class: "badge badge-all" }, "All") : stateBadge(state);
      return button([h("span", { class: "tally-count" }), label], () => choose(parent.dataset["chosen"] === state || state === "" ? null : state), { class: "tally-item", "data-state": state });
    };
    const focused = buttons.find((found) => found === document.activeElement)?.dataset["state"];
    replace(parent, wanted.map(make));
    if (focused !== undefined) [...parent.querySelectorAll("button")].find((made) => made.dataset["state"] === focused)?.focus();
  }
  parent.dataset["chosen"] = chosen ?? "";
  for (const item of parent.querySelectorAll("button")) {
    const state = item.dataset["state"] ?? "";
    const count = item.querySelector(".tally-count");
    if (count !== null) count.textContent = `${state === "" ? fleet.length : (counts.get(state) ?? 0)}`;
    item.setAttribute("aria-pressed", `${state === (chosen ?? "")}`);
  }
}

