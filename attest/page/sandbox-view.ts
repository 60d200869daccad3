/// <reference lib="dom" />
import { ownFilters } from "../appraise-sandbox.ts";
import type { Claims, ShimClaim } from "../claims.ts";
import type { Incident } from "../incidents.ts";
import { type Child, h, outside, section } from "./dom.ts";
import { table } from "./parts.ts";

const errnos: Readonly<Record<number, string>> = {
  1: "EPERM",
  2: "ENOENT",
  9: "EBADF",
  13: "EACCES",
  22: "EINVAL",
  38: "ENOSYS",
  97: "EAFNOSUPPORT",
};

/** The sandbox of the vendor's library: as the spawner saw it, what it tried on itself, and what the kernel saw of that. */
export function sandboxView({ asserted, selfReported }: Claims): HTMLElement {
  const { probeWitnessed, violations } = asserted;
  const seen = (attempt: string) => probeWitnessed.get(attempt) ?? probeWitnessed.get(attempt.split(" ")[0] ?? "") ?? 0;
  const rows = [...selfReported.probe].map(([attempt, errno]) => () => [
    h("code", {}, outside(attempt)),
    errno === 0
      ? h("span", { class: "differs" }, "\u2717 succeeded")
      : h("span", { class: "agrees" }, `\u2713 denied (${errnos[errno] ?? `errno ${errno}`})`),
    seen(attempt) === 0
      ? h("span", { class: "quiet" }, "not notified")
      : seen(attempt) === 1
        ? "once"
        : `${seen(attempt)} times`,
  ]);
  return section(
    "Sandbox of the library",
    {},
    ...reachView(asserted),
    h("h3", {}, "Processes"),
    shimTable(asserted),
    h("h3", {}, "Escapes that it tried on itself"),
    rows.length === 0
      ? h("p", {}, "No escape was tried: the library's process was not started.")
      : table(
          "Escapes that the sandbox tried on itself",
          [{ title: "Tried" }, { title: "Answer" }, { title: "Seen by the kernel" }],
          rows,
        ),
    h("h3", {}, "Denied calls since then"),
    violations.size === 0
      ? h("p", {}, "None.")
      : table(
          "Denied calls of the library",
          [{ title: "Call" }, { title: "Times" }],
          [...violations].map(([call, times]) => () => [h("code", {}, outside(call)), `${times}`]),
        ),
    h("h3", {}, "Incidents, in their order"),
    incidentTable(asserted),
  );
}

/** The library's processes, of which each token has its own. */
function shimTable({ shims }: Claims["asserted"]): HTMLElement {
  if (shims.length === 0) return h("p", {}, "The spawner reports no process of the library.");
  return table(
    "Processes of the library",
    ["Token", "Process", "Role", "User", "Seccomp filters", "Landlock", "Capabilities", "Namespaces of its own"].map(
      (title) => ({ title }),
    ),
    shims.map((shim) => () => [outside(shim.token), `${shim.id}`, shim.role, ...processCells(shim)]),
    "processes",
  );
}

function processCells({ role, landlock, process }: ShimClaim): readonly Child[] {
  if (process === null) {
    const seen = role === "ended" ? quiet("runs no longer") : differs("nobody looked at it");
    return [seen, quiet("\u2013"), `${landlock}`, quiet("\u2013"), quiet("\u2013")];
  }
  const { uid, seccompFilters, inheritedFilters, capabilities, namespaces } = process;
  const filters = `${seccompFilters}${inheritedFilters === 0 ? "" : `, ${inheritedFilters} of them inherited`}`;
  return [
    uid === 0 ? differs("0 (root)") : `${uid}`,
    seccompFilters - inheritedFilters === ownFilters ? filters : differs(filters),
    `${landlock}`,
    /^0+$/.test(capabilities) ? "none" : differs(outside(capabilities)),
    outside(namespaces.join(", ") || "none"),
  ];
}

const quiet = (text: string) => h("span", { class: "quiet" }, text);
/** What no process of a library may have. */
const differs = (what: Child) => h("span", { class: "differs" }, what, " \u2717");

/** What makes this sandbox wider or weaker than the narrowest one, before all else. */
function reachView({ exceptions, lacks }: Claims["asserted"]): readonly Child[] {
  const notice = (title: string, lines: readonly string[]) =>
    lines.length === 0
      ? null
      : h(
          "div",
          { class: "notice" },
          h("p", {}, title),
          h(
            "ul",
            {},
            lines.map((line) => h("li", {}, outside(line))),
          ),
        );
  return [
    notice("The policy lets the library reach more than its own files:", exceptions),
    notice("The machine's kernel lacks:", lacks),
  ];
}

function incidentTable({ incidents }: Claims["asserted"]): HTMLElement {
  if (incidents.length === 0) return h("p", {}, "No incident was recorded.");
  return table(
    "Incidents",
    [{ title: "Where" }, { title: "What" }, { title: "Detail" }],
    incidents.map((incident) => () => incidentCells(incident)),
  );
}

function incidentCells(incident: Incident): readonly Child[] {
  switch (incident.what) {
    case "syscall": {
      const { token, shim, syscall, args, thread, count } = incident;
      const call = `${syscall}(${args.map((arg) => `0x${arg.toString(16)}`).join(", ")})`;
      return [
        outside(`${token}, process ${shim}`),
        h("code", {}, outside(call)),
        `thread ${thread}, call ${count} of that process`,
      ];
    }
    case "device":
      return ["the machine", `device ${incident.change}`, h("code", {}, outside(incident.device))];
    case "replacement": {
      const { token, from, to, why } = incident;
      const over = to < 0 ? "no process was left to take over" : `process ${to} took over`;
      return [outside(`${token}, process ${from}`), over, outside(why)];
    }
  }
}
