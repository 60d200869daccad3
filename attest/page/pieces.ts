/// <reference lib="dom" />
import { button } from "./dom.ts";

/** A hostile report can have thousands of entries and reasons; all of them at once would hold the tab up. */
const piece = 200;

/**
 * Fills `list` with the first items, and gives a button that brings the next ones; `null` where all are there. Nothing is left out: what is
 * not shown yet is counted on the button.
 */
export function inPieces<T>(
  list: HTMLElement,
  items: readonly T[],
  make: (item: T) => HTMLElement,
): HTMLButtonElement | null {
  let shown = 0;
  const next = () => {
    const taken = items.slice(shown, shown + piece);
    shown += taken.length;
    const made = taken.map(make);
    list.append(...made);
    return made[0];
  };
  const label = () => `Show ${Math.min(piece, items.length - shown)} more of ${items.length}`;
  next();
  if (shown === items.length) return null;
  const more = button(label(), () => {
    const first = next();
    if (shown < items.length) more.textContent = label();
    else more.remove();
    // The button may be gone: the reader goes on at the first new entry.
    first?.setAttribute("tabindex", "-1");
    first?.focus();
  });
  return more;
}
