/// <reference lib="dom" />
import { button, h } from "./dom.ts";
import type { Poller } from "./poller.ts";
import { relativeTime } from "./time.ts";

const choices = [5, 15, 60, 300] as const;
/** What was chosen stays as long as the page is open. */
let seconds: number = 15;
let paused = false;

export interface RefreshControl {
  readonly node: HTMLElement;
  updated(at: Date): void;
  failed(): void;
  stop(): void;
}

/** How often the list is fetched, whether it is at all, and how old it is. */
export function refreshControl(poller: Poller): RefreshControl {
  let last: Date | null = null;
  const age = h("span", { class: "quiet" });
  const select = h(
    "select",
    { id: "refresh-interval" },
    choices.map((value) =>
      h(
        "option",
        { value, selected: value === seconds },
        value < 60 ? `${value} seconds` : `${value / 60} minute${value === 60 ? "" : "s"}`,
      ),
    ),
  );
  const pause = button("Pause", () => {
    paused = !paused;
    apply();
    if (!paused) poller.now();
  });
  const apply = () => {
    pause.textContent = paused ? "Resume" : "Pause";
    select.disabled = paused;
    poller.every(paused ? null : seconds);
    draw();
  };
  const draw = () => {
    const when = last === null ? "" : `Updated ${relativeTime(last.toISOString(), new Date())}`;
    age.textContent = paused ? `Paused. ${when}` : when;
  };
  select.addEventListener("change", () => {
    seconds = Number(select.value);
    apply();
  });
  apply();
  const timer = window.setInterval(draw, 1000);
  return {
    node: h(
      "div",
      { class: "refresh", role: "group", "aria-label": "Refresh" },
      age,
      h("label", { for: "refresh-interval" }, "Every"),
      select,
      pause,
      button("Now", () => poller.now(), { "aria-label": "Refresh now" }),
    ),
    updated(at) {
      last = at;
      age.classList.remove("stale");
      draw();
    },
    failed: () => age.classList.add("stale"),
    stop: () => clearInterval(timer),
  };
}
