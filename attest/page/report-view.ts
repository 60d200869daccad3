/// <reference lib="dom" />
import { bankAlgorithm } from "../banks.ts";
import { toHex } from "../verifier.ts";
import { digest } from "./digest.ts";
import { type Child, h, outside, section } from "./dom.ts";
import { describeEventData } from "./event-data.ts";
import { facts, table } from "./parts.ts";
import { launchMeaning, launchSteps, pcrMeaning, stepLabel } from "./plain.ts";
import type { ReadReport } from "./report.ts";
import type { Result } from "./shapes.ts";

const noteType = 3;
/** A report may carry thousands of entries; a table of them all would hold the tab up. */
const mostRows = 400;

/** The launch step by step as the agent's log has it. The order is proven; a log has no times. */
export function timelineView(report: ReadReport, result: Result | null): HTMLElement {
  const log = report.agentLog;
  if (log === null) return section("Launch", {}, h("p", {}, "The agent's log cannot be read."));
  const steps: { kind: string; names: string[] }[] = [];
  for (const { event } of log) {
    const last = steps.at(-1);
    if (last?.kind === event.kind) last.names.push(event.name);
    else steps.push({ kind: event.kind, names: [event.name] });
  }
  const reached = new Set(steps.map(({ kind }) => kind));
  const missing = launchSteps.filter(({ kind }) => !reached.has(kind) && kind !== "file");
  const launch = report.claims?.measured.launch ?? null;
  return section(
    "Launch",
    {},
    launch === null
      ? null
      : h(
          "p",
          {},
          `The agent says that it is ${launchMeaning(launch)}. Steps are in the order of its log; a log has no times.`,
        ),
    h(
      "ol",
      { class: "timeline" },
      steps.map(({ kind, names }) => timelineStep(kind, names, result)),
      missing.map(({ kind, label }) =>
        h(
          "li",
          { class: "step step-missing" },
          h("span", { class: "step-label" }, label),
          " ",
          h("code", {}, kind),
          h("div", { class: "quiet" }, "not in the log"),
        ),
      ),
    ),
  );
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

function timelineStep(kind: string, names: readonly string[], result: Result | null): HTMLElement {
  const wrong = differs(kind, result);
  const tone = toneOf(kind, wrong, result !== null);
  const [first = "", ...more] = names;
  return h(
    "li",
    { class: `step ${tone}` },
    h("span", { class: "step-label" }, stepLabel(kind)),
    " ",
    h("code", {}, kind),
    wrong ? h("span", { class: "differs" }, " \u2717 differs from the release") : null,
    more.length === 0
      ? h("div", { class: "step-names" }, outside(first, "path"))
      : h(
          "details",
          {},
          h("summary", {}, `${names.length} entries`),
          h(
            "ul",
            { class: "plain" },
            names.slice(0, mostRows).map((name) => h("li", {}, outside(name, "path"))),
            tooMany(names.length),
          ),
        ),
  );
}

/** What each register was extended with, computed here from the report. */
export function logsView(report: ReadReport): HTMLElement {
  const { bank, values } = report;
  if (bank === null)
    return section(
      "Log entries behind each register",
      {},
      h("p", {}, "The report lists no registers that can be read."),
    );
  return section(
    "Log entries behind each register",
    {},
    h(
      "p",
      {},
      `The entries of the report's logs in bank ${bank}, read and replayed in this browser. Only digests are in a register: types and descriptions are firmware's own words.`,
    ),
    [...values].map(([pcr, value]) => registerLog(report, pcr, value)),
  );
}

function registerLog(report: ReadReport, pcr: number, value: Uint8Array): HTMLElement {
  const rows = pcr === 13 ? agentRows(report) : firmwareRows(report, pcr);
  const explained = report.explained.has(pcr);
  return h(
    "details",
    { class: "register" },
    h(
      "summary",
      {},
      h("span", { class: "register-name" }, `PCR ${pcr}`),
      h("span", { class: "register-holds" }, pcrMeaning(pcr)),
      h("span", { class: "register-count" }, `${rows.length} ${rows.length === 1 ? "entry" : "entries"}`),
      h("span", { class: explained ? "agrees" : "differs" }, explained ? "\u2713 explained" : "\u2717 not explained"),
    ),
    h("div", { class: "register-value" }, h("span", { class: "compare-label" }, "Value"), digest(toHex(value))),
    rows.length === 0
      ? h("p", { class: "quiet" }, "Nothing was extended.")
      : table(
          `Log entries of PCR ${pcr}`,
          [
            { title: "No.", className: "number" },
            { title: "Type" },
            { title: "Description" },
            { title: "Digest", className: "wide" },
          ],
          rows.slice(0, mostRows),
          "values",
        ),
    tooMany(rows.length),
  );
}

function tooMany(count: number): Child {
  return count > mostRows ? h("p", { class: "quiet" }, `and ${count - mostRows} more, in the report itself`) : null;
}

function agentRows({ agentLog, bank }: ReadReport): readonly (readonly Child[])[] {
  return (agentLog ?? []).map(({ recnum, event, digests }) => [
    `${recnum}`,
    h("code", {}, event.kind),
    outside(event.name, "path"),
    bank === null ? null : digest(toHex(digests[bank])),
  ]);
}

function firmwareRows({ firmwareLog, bank }: ReadReport, pcr: number): readonly (readonly Child[])[] {
  if (firmwareLog === null || bank === null) return [];
  return firmwareLog.events.flatMap((event, index) => {
    if (event.pcr !== pcr || event.type === noteType) return [];
    const found = event.digests.get(bankAlgorithm(bank));
    const type = event.name ?? `type 0x${event.type.toString(16)}`;
    return [
      [
        `${index}`,
        type,
        outside(describeEventData(event)),
        found === undefined ? "none in this bank" : digest(toHex(found)),
      ],
    ];
  });
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
