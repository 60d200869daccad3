/// <reference lib="dom" />
import { bankAlgorithm } from "../banks.ts";
import { toHex } from "../verifier.ts";
import { digest } from "./digest.ts";
import { h, outside, section } from "./dom.ts";
import { describeEventData } from "./event-data.ts";
import { type Row, table } from "./parts.ts";
import { pcrMeaning } from "./plain.ts";
import type { ReadReport } from "./report.ts";

/** EV_NO_ACTION: extends nothing. */
const noteType = 3;

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
          rows,
          "values",
        ),
  );
}

function agentRows({ agentLog, bank }: ReadReport): readonly Row[] {
  return (agentLog ?? []).map(({ recnum, event, digests }) => () => [
    `${recnum}`,
    h("code", {}, event.kind),
    outside(event.name, "path"),
    bank === null ? null : digest(toHex(digests[bank])),
  ]);
}

function firmwareRows({ firmwareLog, bank }: ReadReport, pcr: number): readonly Row[] {
  if (firmwareLog === null || bank === null) return [];
  const numbered = firmwareLog.events.map((event, index) => ({ event, index }));
  return numbered
    .filter(({ event }) => event.pcr === pcr && event.type !== noteType)
    .map(({ event, index }) => () => {
      const found = event.digests.get(bankAlgorithm(bank));
      return [
        `${index}`,
        event.name ?? `type 0x${event.type.toString(16)}`,
        outside(describeEventData(event)),
        found === undefined ? "none in this bank" : digest(toHex(found)),
      ];
    });
}
