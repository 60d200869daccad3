/// <reference lib="dom" />
import { handOver } from "./check-handover.ts";
import { machinePath, ServiceFailure, type StoredReport } from "./client.ts";
import { digest, isDigest } from "./digest.ts";
import { button, type Child, h, outside, section } from "./dom.ts";
import { saveFile } from "./files.ts";
import { facts, stateBadge, table, timeOf } from "./parts.ts";
import { flagMeaning, knownEvent } from "./plain.ts";
import type { Machine, MachineEvent, ReportRow } from "./shapes.ts";
import type { Context } from "./view.ts";

/** What the next report is compared with. */
export function continuityView({ continuity }: Machine): HTMLElement {
  const title = "Continuity";
  if (continuity === null)
    return section(
      title,
      {},
      h("p", {}, "No report has verified yet, so there is nothing to compare the next one with."),
    );
  const more = (name: string): Child => {
    const value = continuity[name];
    return typeof value === "string" || typeof value === "number" ? outside(`${value}`) : "none";
  };
  const audit = continuity["audit"];
  const head = typeof audit === "object" && audit !== null ? (audit as Readonly<Record<string, unknown>>) : null;
  return section(
    title,
    {},
    h("p", { class: "quiet" }, "The next report may not go behind any of these."),
    facts([
      ["TPM clock", `${continuity.clock} ms`],
      ["TPM resets and restarts", `${continuity.resetCount} and ${continuity.restartCount}`],
      ["Boot", continuity.bootSeed],
      ["TPM firmware", more("firmwareVersion")],
      ["Epoch counter", more("epoch")],
      [
        "Audit log",
        head === null
          ? "none: it has not served yet"
          : h(
              "span",
              {},
              `record ${String(head["seq"] ?? "unknown")} `,
              typeof head["hash"] === "string" ? digest(head["hash"]) : null,
            ),
      ],
    ]),
  );
}

/** What happened to the machine, newest first. */
export function historyView(events: readonly MachineEvent[]): HTMLElement {
  if (events.length === 0) return section("History", {}, h("p", {}, "Nothing has happened since the enrolment."));
  const rows = events.map(({ at, kind, detail }) => () => [timeOf(at), eventKind(kind), eventDetail(detail)]);
  return section(
    "History",
    {},
    table("History", [{ title: "When" }, { title: "What" }, { title: "Detail", className: "wide" }], rows),
  );
}

function eventKind(kind: string): HTMLElement {
  const known = knownEvent(kind);
  if (known === "state") return stateBadge(kind);
  return h(
    "span",
    { class: known === "flag" ? "flag" : null, title: known === "flag" ? flagMeaning(kind) : null },
    kind,
  );
}

function eventDetail(detail: MachineEvent["detail"]): Child {
  const entries = Object.entries(detail);
  if (entries.length === 0) return h("span", { class: "quiet" }, "none");
  return h(
    "ul",
    { class: "attributes" },
    entries.map(([name, value]) =>
      h(
        "li",
        {},
        h("span", { class: "quiet" }, outside(name), " "),
        typeof value === "string" && isDigest(value) ? digest(value) : outside(`${value ?? "none"}`),
      ),
    ),
  );
}

/** The reports that the service keeps, each to be shown or saved. */
export function reportsView(
  context: Context,
  machine: Machine,
  rows: readonly ReportRow[],
  shown: string | null,
): HTMLElement {
  if (rows.length === 0) return section("Reports", {}, h("p", {}, "None is kept."));
  const path = machinePath(machine.name);
  const columns = [
    { title: "No.", className: "number" },
    { title: "When" },
    { title: "Verdict" },
    { title: "Reasons", className: "wide" },
    { title: "Report" },
  ];
  const cells = rows.map(({ id, at, tier, codes }) => () => [
    id,
    timeOf(at),
    stateBadge(tier),
    codes.length === 0
      ? h("span", { class: "quiet" }, "none")
      : h(
          "ul",
          { class: "attributes" },
          codes.map((code) => h("li", {}, h("code", {}, outside(code)))),
        ),
    h(
      "span",
      { class: "row-actions" },
      id === shown
        ? h("span", { class: "quiet" }, "shown above")
        : h("a", { href: `#/${path}/reports/${encodeURIComponent(id)}`, "aria-label": `Show report ${id}` }, "Show"),
      reportButton(context, "Save", `${path}/reports/${encodeURIComponent(id)}`, ({ bytes }) => {
        saveFile(`${machine.name}-${id}.cmw`, "application/cmw+cbor", bytes);
        context.announce(`Report ${id} saved`);
      }),
      reportButton(context, "Check", `${path}/reports/${encodeURIComponent(id)}`, (report) => {
        handOver({ machine: machine.name, name: `${machine.name}-${id}.cmw`, report });
        window.location.hash = "#/check";
      }),
    ),
  ]);
  return section("Reports", {}, table("Reports", columns, cells));
}

/** Fetches a report and does something with it; a failure is told. */
function reportButton(
  { client, announce, askToken }: Context,
  label: string,
  path: string,
  act: (report: StoredReport) => void,
): HTMLElement {
  const id = path.split("/").at(-1) ?? "";
  const made = button(
    label,
    async () => {
      made.disabled = true;
      try {
        act(await client.report(path));
      } catch (error) {
        if (error instanceof ServiceFailure && error.kind === "token") askToken();
        else announce(`Report ${id} did not come: ${error instanceof Error ? error.message : "unknown"}`);
      }
      made.disabled = false;
    },
    { "aria-label": `${label} report ${id}` },
  );
  return made;
}

export function enrolmentView({ enrolment }: Machine): HTMLElement {
  return section(
    "Enrolment",
    {},
    facts([
      ["Enrolled", timeOf(enrolment.enrolledAt)],
      ["Assurance", enrolment.assurance],
      ["Name of the endorsement key", digest(enrolment.ekName)],
      ["Name of the attestation key", digest(enrolment.akName)],
      [
        "EK certificate, SHA-256",
        enrolment.ekCertificateSha256 === null ? "pinned by its Name" : digest(enrolment.ekCertificateSha256),
      ],
    ]),
  );
}
