/// <reference lib="dom" />
import { IronclawError } from "../verifier.ts";
import { type Client, machinePath, ServiceFailure } from "./client.ts";
import { button, h, outside, replace, section } from "./dom.ts";
import { failureView } from "./failure-view.ts";
import { flagList } from "./fleet-table.ts";
import { continuityView, enrolmentView, historyView, reportsView } from "./machine-parts.ts";
import { contentsOf, stateBadge, timeOf } from "./parts.ts";
import { createPoller } from "./poller.ts";
import { type ReadReport, readReport } from "./report.ts";
import { resultSections } from "./result-sections.ts";
import { verdictView } from "./result-view.ts";
import { type Judgement, type Machine, machineSchema, type ReportRow, reportRowsSchema } from "./shapes.ts";
import type { Context, View } from "./view.ts";

const watchSeconds = 15;

interface Loaded {
  readonly machine: Machine;
  readonly rows: readonly ReportRow[];
  /** The report that is shown; `null` where the machine has none. */
  readonly shown: { readonly id: string; readonly judgement: Judgement; readonly report: ReadReport | string } | null;
}

/**
 * Everything about one machine, and about one of its reports: the last one, or an older one that was asked for.
 * A newer report is offered, not put under the reader's eyes.
 */
export function machineView(context: Context, name: string, reportId: string | null): View {
  const { client, announce, askToken } = context;
  const problem = h("div", {});
  const fresh = h("div", {});
  const content = h("div", { class: "machine" }, h("p", { class: "quiet" }, "Loading \u2026"));
  let seen: string | null = null;
  const load = async () => {
    const loaded = await loadMachine(client, name, reportId);
    seen = versionOf(loaded.machine);
    replace(problem);
    replace(fresh);
    replace(content, ...machineSections(context, loaded, reportId));
    content.children[0]?.after(contentsOf(content));
  };
  const watch = async () => {
    if (seen === null) return load();
    const machine = await client.get(machinePath(name), machineSchema);
    replace(problem);
    if (versionOf(machine) === seen || fresh.childNodes.length > 0) return;
    announce(`${name} has changed; it is now ${machine.state}`);
    replace(
      fresh,
      h(
        "p",
        { class: "notice" },
        "This machine has changed since: ",
        stateBadge(machine.state),
        " ",
        button("Show", () => void load().catch(fail)),
      ),
    );
  };
  const fail = (error: unknown) => {
    if (error instanceof ServiceFailure && error.kind === "token") return askToken();
    replace(problem, failureView(error));
    if (seen === null)
      replace(
        content,
        h(
          "p",
          {},
          button("Try again", () => poller.now()),
        ),
      );
  };
  const poller = createPoller(watch, fail);
  poller.every(watchSeconds);
  poller.now();
  return {
    title: name,
    node: h(
      "div",
      {},
      h(
        "nav",
        { "aria-label": "Where you are", class: "crumbs" },
        h("a", { href: "#/" }, "Machines"),
        " / ",
        outside(name),
      ),
      h("div", { class: "title-line" }, h("h1", { tabindex: -1 }, outside(name))),
      problem,
      fresh,
      content,
    ),
    stop: () => poller.stop(),
  };
}

function versionOf({ state, lastReport, lastSeen, flags, events }: Machine): string {
  return JSON.stringify([state, lastReport, lastSeen, flags, events.length, events[0]?.at]);
}

async function loadMachine(client: Client, name: string, reportId: string | null): Promise<Loaded> {
  const path = machinePath(name);
  const [machine, rows] = await Promise.all([
    client.get(path, machineSchema),
    client.get(`${path}/reports`, reportRowsSchema),
  ]);
  const id = reportId ?? machine.lastReport;
  if (id === null) return { machine, rows, shown: null };
  const at = `${path}/reports/${encodeURIComponent(id)}`;
  const [judgement, { bytes }] = await Promise.all([client.judgement("GET", `${at}/result`), client.report(at)]);
  return { machine, rows, shown: { id, judgement, report: readOrReason(bytes) } };
}

/** A refused report may be anything; what it is not is told, not thrown. */
function readOrReason(bytes: Uint8Array): ReadReport | string {
  try {
    return readReport(bytes);
  } catch (error) {
    if (error instanceof IronclawError) return `${error.message} (${error.code})`;
    throw error;
  }
}

function machineSections(context: Context, loaded: Loaded, reportId: string | null): readonly HTMLElement[] {
  const { machine, rows, shown } = loaded;
  const summary = h(
    "div",
    { class: "machine-summary" },
    h("span", {}, "State ", stateBadge(machine.state), " since ", timeOf(machine.since)),
    h("span", {}, "Last seen ", timeOf(machine.lastSeen)),
    machine.flags.length === 0 ? null : h("span", { class: "with-flags" }, "Flags ", flagList(machine.flags)),
  );
  const older = reportId !== null && reportId !== machine.lastReport;
  const note = older
    ? h(
        "p",
        { class: "notice" },
        `This is report ${reportId}, not the last one. `,
        h("a", { href: `#/${machinePath(machine.name)}` }, "Show the last one"),
      )
    : null;
  return [
    summary,
    ...(note === null ? [] : [note]),
    ...(shown === null ? [nothingYet(machine)] : judgedSections(context, machine, shown)),
    continuityView(machine),
    historyView(machine.events),
    reportsView(context, machine, rows, shown?.id ?? null),
    enrolmentView(machine),
  ];
}

function nothingYet({ state }: Machine): HTMLElement {
  return h(
    "div",
    { class: "stack" },
    verdictView(state, null),
    section("Reports", {}, h("p", {}, "No report of this machine has been kept yet.")),
  );
}

function judgedSections(
  context: Context,
  machine: Machine,
  shown: NonNullable<Loaded["shown"]>,
): readonly HTMLElement[] {
  const body = h("div", { class: "stack" });
  const draw = ({ result, reasons }: Judgement, when: string) =>
    replace(body, resultSections(result, reasons, shown.report, when));
  const again = button("Judge again", () => void judge());
  const judge = async () => {
    again.disabled = true;
    try {
      const path = `${machinePath(machine.name)}/reports/${encodeURIComponent(shown.id)}/appraisal`;
      const judgement = await context.client.judgement("POST", path);
      draw(
        judgement,
        "Judged again by the present policy and releases, as of the time when the report came. What is stored did not change.",
      );
      context.announce(`Judged again: ${judgement.result?.tier ?? "refused"}`);
    } catch (error) {
      if (error instanceof ServiceFailure && error.kind === "token") context.askToken();
      else body.prepend(failureView(error));
    }
    again.disabled = false;
  };
  draw(shown.judgement, "");
  const title = shown.id === machine.lastReport ? `Last report (no. ${shown.id})` : `Report no. ${shown.id}`;
  return [h("div", { class: "title-line" }, h("h2", { tabindex: -1 }, title), again), body];
}
