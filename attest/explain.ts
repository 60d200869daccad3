import type { AttestationResult, EventComparison, PcrComparison } from "./attestation-result.ts";
import type { Finding } from "./finding.ts";
import type { Reason } from "./reason.ts";

/** An attestation result as plain text for a person: the verdict, why, and expected and measured values side by side. */
export function explain(result: AttestationResult): string {
  const width = Math.max(...result.events.map(({ kind, name }) => kind.length + name.length + 1), 10);
  return [
    `${printable(result.machine)}: ${result.tier} (launch ${result.launch}, ${result.assurance}, release ${printable(result.release ?? "none")})`,
    ...result.findings.map(explainFinding),
    "",
    "PCR  expected          measured",
    ...result.pcrs.map(explainPcr),
    "",
    `${"event".padEnd(width)}  expected          measured`,
    ...result.events.map((event) => explainEvent(event, width)),
    "",
  ].join("\n");
}

/** The reasons of evidence that did not verify, one a line. For its owner: a stranger learns only that it was refused. */
export function explainReasons(reasons: readonly Reason[]): string {
  return reasons.map((found) => `${explainFinding({ ...found, tier: "contraindicated" })}\n`).join("");
}

function explainFinding({ tier, code, item, expected, got }: Finding): string {
  return `  ${tier === "warning" ? "warning" : "refused"}  ${code}: ${printable(item)}: expected ${printable(expected)}, got ${printable(got)}`;
}

function explainPcr({ pcr, expected, got }: PcrComparison): string {
  const mark = expected === null || expected === got ? "" : "  <- differs";
  return `${`${pcr}`.padStart(3)}  ${short(expected)}  ${short(got)}${mark}`;
}

function explainEvent({ kind, name, expected, got, agrees }: EventComparison, width: number): string {
  return `${`${kind} ${printable(name)}`.padEnd(width)}  ${short(expected)}  ${short(got)}${agrees ? "" : "  <- differs"}`;
}

function short(digest: string | null): string {
  return (digest === null ? "-" : digest.slice(0, 16)).padEnd(16);
}

/** Names and reasons come from outside: a control character must not reach the reader's terminal. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to take out
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, "?").slice(0, 200);
}
