/// <reference lib="dom" />
import { codeMeaning } from "./codes.ts";
import { comparison, digest, isDigest } from "./digest.ts";
import { h, outside, section } from "./dom.ts";
import { facts, knownState, stateBadge, table, timeOf } from "./parts.ts";
import { inPieces } from "./pieces.ts";
import { assuranceMeaning, launchMeaning, pcrMeaning, stateWords } from "./plain.ts";
import type { Finding, Reason, Result } from "./shapes.ts";

/** The verdict in words, and what it rests on. */
export function verdictView(state: string, result: Result | null): HTMLElement {
  const known = knownState(state);
  return h(
    "div",
    { class: `verdict tone-${known ?? "warning"}` },
    h("p", { class: "verdict-line" }, stateBadge(state, "large")),
    h("p", {}, known === null ? "A state that this page does not know: take it for a doubt." : stateWords[known].means),
    result === null ? null : resultFacts(result),
  );
}

function resultFacts(result: Result): HTMLElement {
  const release = result.release === null ? "none was given" : outside(result.release);
  return facts([
    ["Launch", launchMeaning(result.launch)],
    [
      "Assurance",
      h("span", {}, result.assurance, h("br"), h("span", { class: "quiet" }, assuranceMeaning(result.assurance))),
    ],
    ["Compared with release", release],
    ["Judged by policy", outside(result.policy.name)],
    ["Judged", timeOf(result.at)],
  ]);
}

/** Every reason: what a library reaches beyond its own files, then the worst, and of these what the agent itself says of its launch. */
export function findingsView(findings: readonly Finding[]): HTMLElement {
  if (findings.length === 0) return section("Reasons", {}, h("p", {}, "None: every check that was made passed."));
  const weight = ({ tier, code }: Finding) => {
    if (code === "profile-exception") return 0;
    return tier === "warning" ? 3 : code.startsWith("launch-") ? 1 : 2;
  };
  const sorted = findings.toSorted((a, b) => weight(a) - weight(b));
  return reasonsSection(`Reasons (${findings.length})`, sorted, (found) => reasonItem(found, found.tier));
}

/** Why evidence did not verify. */
export function refusalView(reasons: readonly Reason[]): HTMLElement {
  return reasonsSection(`Why it was refused (${reasons.length})`, reasons, (found) => reasonItem(found, "refused"));
}

function reasonsSection<T>(title: string, reasons: readonly T[], make: (found: T) => HTMLElement): HTMLElement {
  const list = h("ol", { class: "reason-list" });
  return section(title, { class: "reasons" }, list, inPieces(list, reasons, make));
}

function reasonItem(
  { code, item, expected, got }: Reason,
  tier: "warning" | "contraindicated" | "refused",
): HTMLElement {
  const meaning = codeMeaning(code);
  return h(
    "li",
    { class: `reason tone-${tier}` },
    h(
      "div",
      { class: "reason-head" },
      stateBadge(tier),
      h("code", { class: "code" }, code),
      outside(item, "reason-item"),
    ),
    meaning === null ? null : h("p", { class: "reason-means" }, meaning),
    isDigest(expected) && isDigest(got)
      ? comparison(expected, got)
      : facts([
          ["Expected", isDigest(expected) ? digest(expected) : outside(expected)],
          ["Got", isDigest(got) ? digest(got) : outside(got)],
        ]),
  );
}

/** Registers as the release expects them and as the TPM signed them. */
export function pcrsView({ pcrs }: Pick<Result, "pcrs">): HTMLElement {
  const columns = [
    { title: "PCR", className: "number" },
    { title: "Holds" },
    { title: "Values", className: "wide" },
    { title: "Agrees" },
  ];
  const rows = pcrs.map(({ pcr, expected, got }) => [
    `${pcr}`,
    pcrMeaning(pcr),
    pcr === 13 ? agentPcrValue(got) : comparison(expected, got),
    agreement(expected === null ? null : expected === got, pcr === 13 ? "event by event" : "no reference"),
  ]);
  return section("Registers", {}, table("Registers, expected and measured", columns, rows, "values"));
}

function agentPcrValue(got: string): HTMLElement {
  return h(
    "div",
    {},
    comparison(null, got),
    h("p", { class: "quiet" }, "Compared event by event: see the next section."),
  );
}

/** Everything that the agent measured before its login, beside what the release names. */
export function eventsView({ events }: Pick<Result, "events">): HTMLElement {
  if (events.length === 0) return section("Measured by the agent", {}, h("p", {}, "No event."));
  const columns = [{ title: "Kind" }, { title: "Name" }, { title: "SHA-256", className: "wide" }, { title: "Agrees" }];
  const differing = events.filter(({ agrees }) => !agrees).length;
  const rows = events.map(({ kind, name, expected, got, agrees }) => () => [
    h("code", {}, kind),
    outside(name, "path"),
    comparison(expected, got),
    agreement(expected === null && agrees ? null : agrees, "no reference"),
  ]);
  return section(
    "Measured by the agent",
    {},
    h(
      "p",
      {},
      differing === 0
        ? "Everything that the release names was measured, and nothing else before the login."
        : `${differing} of ${events.length} differ.`,
    ),
    table("Measured by the agent", columns, rows, "values"),
  );
}

function agreement(agrees: boolean | null, otherwise: string): HTMLElement {
  if (agrees === null) return h("span", { class: "quiet" }, otherwise);
  return h("span", { class: agrees ? "agrees" : "differs" }, agrees ? "\u2713 agrees" : "\u2717 differs");
}

/** The limits of the result, so that nobody reads more into it. */
export function notProvenView({ notProven }: Pick<Result, "notProven">): HTMLElement {
  return section(
    "What this result does not prove",
    { class: "limits" },
    notProven.length === 0
      ? h("p", {}, "The service names no limits.")
      : h(
          "ul",
          {},
          notProven.map(({ text, code }) => h("li", {}, outside(text), " ", h("code", { class: "quiet" }, code))),
        ),
  );
}

const vectorWords: readonly (readonly [number, string])[] = [
  [96, "contraindicated"],
  [32, "warning"],
  [2, "affirming"],
];

/** The AR4SI trustworthiness vector that goes into the token for relying parties. */
export function vectorView({ vector }: Pick<Result, "vector">): HTMLElement {
  const word = (value: number) => {
    if (value < 0 || value === 1) return "verifier's fault";
    return vectorWords.find(([least]) => value >= least)?.[1] ?? "no claim";
  };
  const claims = Object.entries(vector).map(([name, value]) => [name, `${word(value)} (${value})`] as const);
  return section(
    "Trustworthiness vector",
    {},
    h("p", { class: "quiet" }, "What a relying party reads in the signed token, in the words of AR4SI."),
    facts(claims),
  );
}
