/// <reference lib="dom" />
import type { CheckOutcome } from "./check.ts";
import { h, outside } from "./dom.ts";
import { resultSections } from "./result-sections.ts";

/** The outcome of a check in the browser, with the parts that a machine's page has. */
export function outcomeView(
  found: Exclude<CheckOutcome, { kind: "incomplete" }>,
  standardPolicy: boolean,
): readonly HTMLElement[] {
  const title = h("h2", { tabindex: -1 }, "Result");
  if (found.kind === "malformed") return [title, malformedView(found)];
  const judged = found.kind === "judged";
  const note = [
    "Verified in this browser; nothing was sent.",
    "Not compared with an earlier report of the machine.",
    judged && standardPolicy ? "Judged by the built-in policy, because none was given." : "",
    judged && found.result.release === null
      ? "No release was given that the policy accepts: there is nothing to compare with."
      : "",
  ];
  const text = note.filter((line) => line !== "").join(" ");
  return [title, ...resultSections(judged ? found.result : null, judged ? [] : found.reasons, found.report, text)];
}

function malformedView({ part, code, message, hint }: Extract<CheckOutcome, { kind: "malformed" }>): HTMLElement {
  return h(
    "div",
    { class: "notice notice-bad", role: "alert" },
    h("p", { class: "notice-title" }, "The ", outside(part), " cannot be read"),
    h("p", {}, outside(message)),
    h("p", { class: "quiet" }, h("code", {}, code), hint === null ? null : outside(` ${hint}`)),
  );
}
