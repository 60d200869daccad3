import { preUnsealKinds, printableLine } from "../policy/index.ts";
import type { AttestationResult, EventComparison, PcrComparison } from "./attestation-result.ts";
import type { Finding } from "./finding.ts";
import { loginKinds } from "./launch-events.ts";
import type { Reason } from "./reason.ts";

/** What is in each PCR, in a word. */
export const pcrContents: Readonly<Record<number, string>> = {
  0: "firmware",
  1: "settings",
  2: "option-roms",
  3: "rom-settings",
  4: "bootloader",
  5: "partitions",
  6: "platform",
  7: "secure-boot",
  8: "commands",
  9: "initrd",
  10: "ima",
  11: "kernel-image",
  12: "overrides",
  13: "agent",
  14: "shim-lock",
};

/** An attestation result as plain text for a person: the verdict, why, expected and measured values side by side, and what it does not prove. */
export function explain(result: AttestationResult): string {
  const { policy, evidence, at } = result;
  const of = (kinds: readonly string[]) => result.events.filter(({ kind }) => kinds.includes(kind));
  const later = result.events.filter(({ kind }) => ![...preUnsealKinds, ...loginKinds].some((known) => known === kind));
  return [
    summarise(result),
    "",
    "PCR  what          expected          measured",
    ...result.pcrs.map(explainPcr),
    "",
    ...eventTable("measured before the PIN", of(preUnsealKinds)),
    ...eventTable("tokens and keys", of(loginKinds)),
    ...eventTable("cap and later", later),
    "what this does not prove",
    ...result.notProven.map(({ text }) => wrap(printable(text, 1000))),
    "",
    `policy ${printable(policy.name)}, sha256 ${policy.sha256}`,
    `report sha256 ${evidence}, judged ${at}`,
    "",
  ].join("\n");
}

/** The verdict in one line, then every reason: what a library reaches beyond its own files, refusals, warnings. */
export function summarise(result: AttestationResult): string {
  const { machine, tier, launch, assurance, release, findings } = result;
  return [
    `${printable(machine)}: ${tier} (launch ${launch}, ${assurance}, release ${printable(release ?? "none")})`,
    ...findings.toSorted((a, b) => weight(a) - weight(b)).map(explainFinding),
  ].join("\n");
}

/** The reasons of evidence that did not verify, one a line. For its owner: a stranger learns only that it was refused. */
export function explainReasons(reasons: readonly Reason[]): string {
  return reasons.map((found) => `${explainFinding({ ...found, tier: "contraindicated" })}\n`).join("");
}

/** A profile that lets the library reach more than its own files is the first thing to know about a sandbox. */
const exceptionCode = "profile-exception";

function weight({ tier, code }: Finding): number {
  if (code === exceptionCode) return 0;
  return tier === "contraindicated" ? 1 : 2;
}

function explainFinding({ tier, code, item, expected, got }: Finding): string {
  if (code === exceptionCode) return `  exception  ${printable(item)}`;
  return `  ${tier === "warning" ? "warning" : "refused"}  ${printable(code)}: ${printable(item)}: expected ${printable(expected)}, got ${printable(got)}`;
}

/** The agent's PCR has no value of its own to expect: its events are compared one by one. */
function explainPcr({ pcr, expected, got }: PcrComparison): string {
  const mark = expected === null || expected === got ? "" : "  <- differs";
  return `${`${pcr}`.padStart(3)}  ${(pcrContents[pcr] ?? "").padEnd(12)}  ${short(expected)}  ${short(got)}${mark}`.trimEnd();
}

function eventTable(title: string, events: readonly EventComparison[]): readonly string[] {
  if (events.length === 0) return [];
  const names = events.map(({ kind, name }) => `${kind} ${printable(name)}`);
  const width = Math.max(title.length, ...names.map((name) => name.length));
  return [
    `${title.padEnd(width)}  expected          measured`,
    ...events.map((event, index) => explainEvent(event, (names[index] ?? "").padEnd(width))),
    "",
  ];
}

function explainEvent({ expected, got, agrees }: EventComparison, name: string): string {
  return `${name}  ${short(expected)}  ${short(got)}${agrees ? "" : "  <- differs"}`.trimEnd();
}

function short(digest: string | null): string {
  return (digest === null ? "-" : digest.slice(0, 16)).padEnd(16);
}

/** One paragraph, indented, in lines that a terminal shows whole. */
function wrap(text: string): string {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + word.length < 96) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines.map((line, index) => `  ${index === 0 ? "-" : " "} ${line}`).join("\n");
}

/** Names and reasons come from outside, and can be long. */
function printable(text: string, length = 200): string {
  return printableLine(text).slice(0, length);
}
