/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { button, h, replace } from "./dom.ts";
import { countByState } from "./fleet-rows.ts";
import { stateBadge } from "./parts.ts";
import { states } from "./plain.ts";
import type { Summary } from "./shapes.ts";

/** Counts that are filters at the same time. */
export function drawTally(
  parent: HTMLElement,
  fleet: readonly Summary[],
  chosen: string | null,
  choose: (state: string | null) => void,
): void {
  const counts = countByState(fleet);
  const known = new Set<string>(states);
  const present = [
    ...states.filter((state) => counts.has(state) || state === chosen),
    ...[...counts.keys()].filter((state) => !known.has(state)),
  ];
  const wanted = ["", ...present];
  const buttons = [...parent.querySelectorAll("button")];
  if (buttons.map((found) => found.dataset["state"]).join("\n") !== wanted.join("\n")) {
    const make = (state: string) => {
      const label = state === "" ? h("span", { class: "badge badge-all" }, "All") : stateBadge(state);
      return button(
        [h("span", { class: "tally-count" }), label],
        () => choose(parent.dataset["chosen"] === state || state === "" ? null : state),
        { class: "tally-item", "data-state": state },
      );
    };
    const focused = buttons.find((found) => found === document.activeElement)?.dataset["state"];
    replace(parent, wanted.map(make));
    if (focused !== undefined)
      [...parent.querySelectorAll("button")].find((made) => made.dataset["state"] === focused)?.focus();
  }
  parent.dataset["chosen"] = chosen ?? "";
  for (const item of parent.querySelectorAll("button")) {
    const state = item.dataset["state"] ?? "";
    const count = item.querySelector(".tally-count");
    if (count !== null) count.textContent = `${state === "" ? fleet.length : (counts.get(state) ?? 0)}`;
    item.setAttribute("aria-pressed", `${state === (chosen ?? "")}`);
  }
}
