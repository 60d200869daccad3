/// <reference lib="dom" />
import type { CelRecord } from "../cel.ts";
import { toHex } from "../verifier.ts";
import { digest } from "./digest.ts";
import { h, outside, section } from "./dom.ts";
import { facts } from "./parts.ts";
import { inPieces } from "./pieces.ts";
import { launchMeaning, launchSteps, stepLabel } from "./plain.ts";
import type { ReadReport } from "./report.ts";
import type { Result } from "./shapes.ts";

type Step = { readonly kind: string; readonly names: readonly string[] };

/** The launch step by step as the agent's log has it. The order is proven; a log has no times. */
export function timelineView(report: ReadReport, result: Result | null): HTMLElement {
  const log = report.agentLog;
  if (log === null) return section("Launch", {}, h("p", {}, "The agent's log cannot be read."));
  const steps = stepsOf(log);
  const reached = new Set(steps.map(({ kind }) => kind));
  // A library may have no files of its own, so their step may be absent.
  const missing = launchSteps.filter(({ kind }) => !reached.has(kind) && kind !== "file");
  const launch = report.claims?.measured.launch ?? null;
  const list = h("ol", { class: "timeline" });
  const items: readonly Step[] = [...steps, ...missing.map(({ kind }) => ({ kind, names: [] }))];
  const more = inPieces(list, items, (step) => timelineStep(step, result));
  return section(
    "Launch",
    {},
    launch === null
      ? null
      : h("p", {}, `The agent says: ${launchMeaning(launch)}. Steps are in the order of its log; a log has no times.`),
    list,
    more,
  );
}

/** Neighbours of one kind are one step. */
function stepsOf(log: readonly CelRecord[]): readonly Step[] {
  const steps: { kind: string; names: string[] }[] = [];
  for (const { event } of log) {
    const last = steps.at(-1);
    if (last?.kind === event.kind) last.names.push(event.name);
    else steps.push({ kind: event.kind, names: [event.name] });
  }
  return steps;
}

function differs(kind: string, result: Result | null): boolean {
  return result?.events.some((event) => event.kind === kind && !event.agrees) ?? false;
}

/** Without a result nothing is known to be so: the steps are then only said. */
function toneOf(kind: string, wrong: boolean, judged: boolean): string {
  if (wrong || (judged && kind === "violation")) return "step-bad";
  if (!judged) return "step-said";
  return launchSteps.some((step) => step.kind === kind) ? "step-good" : "step-later";
}

function timelineStep({ kind, names }: Step, result: Result | null): HTMLElement {
  const wrong = differs(kind, result);
  const missing = names.length === 0;
  return h(
    "li",
    { class: `step ${missing ? "step-missing" : toneOf(kind, wrong, result !== null)}` },
    h("span", { class: "step-label" }, stepLabel(kind)),
    " ",
    h("code", {}, kind),
    wrong ? h("span", { class: "differs" }, " \u2717 differs from the release") : null,
    missing ? h("div", { class: "quiet" }, "not in the log") : stepNames(names),
  );
}

function stepNames(names: readonly string[]): HTMLElement {
  const [first = ""] = names;
  if (names.length === 1) return h("div", { class: "step-names" }, outside(first, "path"));
  const list = h("ul", { class: "plain" });
  const more = inPieces(list, names, (name) => h("li", {}, outside(name, "path")));
  return h("details", {}, h("summary", {}, `${names.length} entries`), list, more);
}

/** Where a report came from, as it says itself. */
export function reportFactsView(report: ReadReport): HTMLElement {
  const { claims } = report;
  const asserted = claims?.asserted;
  return section(
    "The report",
    {},
    facts([
      ["SHA-256", digest(report.sha256)],
      ["Size", `${report.size.toLocaleString("en")} bytes`],
      ["Calls itself", asserted === undefined ? "unreadable" : outside(asserted.machine)],
      ["Agent", claims === null ? "unreadable" : outside(`${claims.software.name} ${claims.software.version}`)],
      [
        "Image",
        asserted === undefined ? "unreadable" : h("span", {}, asserted.image.variant, " ", digest(asserted.image.id)),
      ],
      ["Epoch counter", asserted === undefined ? "unreadable" : `${asserted.epoch ?? "none"}`],
      [
        "Audit log",
        asserted === undefined
          ? "unreadable"
          : h("span", {}, `record ${asserted.audit.seq} `, digest(toHex(asserted.audit.hash))),
      ],
      ["Nonce", claims === null ? "unreadable" : digest(toHex(claims.nonce))],
    ]),
    report.problems.map(({ part, code, message }) =>
      h("p", { class: "notice notice-bad" }, `${part} cannot be read: `, outside(message), " ", h("code", {}, code)),
    ),
  );
}
