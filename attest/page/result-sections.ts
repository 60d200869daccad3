/// <reference lib="dom" />
import { claimsViews } from "./claims-view.ts";
import { h, outside, section } from "./dom.ts";
import { logsView } from "./logs-view.ts";
import type { ReadReport } from "./report.ts";
import { reportFactsView, timelineView } from "./report-view.ts";
import {
  eventsView,
  findingsView,
  notProvenView,
  pcrsView,
  refusalView,
  vectorView,
  verdictView,
} from "./result-view.ts";
import type { Judgement } from "./shapes.ts";

const saidOnly =
  "What follows is what the report says of itself. It did not verify, so none of it is known to be true.";

/** The parts of a judged report, also of one that was judged in this browser. */
export function resultSections(
  result: Judgement["result"],
  reasons: Judgement["reasons"],
  report: ReadReport | string,
  note: string,
): readonly HTMLElement[] {
  const readable = typeof report === "string" ? null : report;
  return [
    ...(note === "" ? [] : [h("p", { class: "notice", role: "status" }, note)]),
    verdictView(result?.tier ?? "refused", result),
    result === null ? refusalView(reasons) : findingsView(result.findings),
    ...(typeof report === "string"
      ? [section("The report", {}, h("p", { class: "notice notice-bad" }, "It cannot be read: ", outside(report)))]
      : []),
    ...(result === null && readable !== null ? [h("p", { class: "notice" }, saidOnly)] : []),
    ...(readable === null ? [] : [timelineView(readable, result)]),
    ...(result === null ? [] : [pcrsView(result), eventsView(result)]),
    ...(readable === null ? [] : [logsView(readable), ...claimsViews(readable.claims), reportFactsView(readable)]),
    ...(result === null ? [] : [vectorView(result), notProvenView(result)]),
  ];
}
