import type { AuditRecord } from "../../agent/audit/record.ts";
import { printableText } from "../../policy/index.ts";
import type { Section } from "./document.ts";
import { holds, type Step, type StepResult, type Try } from "./step.ts";

/** Escape sequences for a terminal; none for anything else. */
export interface Palette {
  readonly bold: (text: string) => string;
  readonly good: (text: string) => string;
  readonly bad: (text: string) => string;
}

const sequence = (code: number) => (text: string) => `\x1b[${code}m${text}\x1b[0m`;
const PLAIN: Palette = { bold: (text) => text, good: (text) => text, bad: (text) => text };

/** @param noColor the variable NO_COLOR (no-color.org): anything but nothing switches colours off */
export function paletteFor(isTerminal: boolean, noColor: string | undefined): Palette {
  if (!isTerminal || (noColor !== undefined && noColor !== "")) return PLAIN;
  return { bold: sequence(1), good: sequence(32), bad: sequence(31) };
}

const MARGIN = 10;

/** A step and what became of it, for a person. What programs printed reaches the terminal as print only. */
export function formatStep(step: Step, section: Section, result: StepResult, palette: Palette): string {
  const { number, part, title, attacked, change, enforcedBy } = step;
  const { bold, good, bad } = palette;
  const verdict = holds(result) ? good("as it should be") : bad("NOT as it should be");
  return [
    bold(`Step ${number}, ${part}: ${title}`),
    field("attacked", [attacked]),
    ...(change === null ? [] : [field("changed", [change])]),
    "",
    ...section.picture.map((line) => `    ${line}`.trimEnd()),
    "",
    ...result.tries.map((tried) => field("tried", tryLines(tried, palette))),
    field("enforced", [enforcedBy]),
    ...(result.shown.length === 0 ? [] : [field("shown", result.shown)]),
    field("audit", result.audit.length === 0 ? ["nothing"] : result.audit.map(auditLine)),
    field("unseen", section.unseen),
    field("result", [verdict]),
    "",
  ].join("\n");
}

function tryLines({ who, command, expected, outcome, answer }: Try, { good, bad }: Palette): readonly string[] {
  const colour = outcome === expected ? good : bad;
  const expectation = outcome === expected ? "" : ` (expected: ${expected})`;
  return [who, `$ ${printableText(command)}`, `${colour(outcome)}${expectation}: ${printableText(answer)}`];
}

function auditLine({ seq, operation, key, decision, step, reason, approvals }: AuditRecord): string {
  const where = step === null ? decision : `${decision} at ${step}`;
  const approved = approvals.length === 0 ? "" : ` (approved by ${approvals.join(", ")})`;
  return printableText(`${seq}  ${operation} ${key ?? "-"}: ${where}: ${reason}${approved}`);
}

function field(name: string, lines: readonly string[]): string {
  return lines.map((line, at) => `${(at === 0 ? name : "").padEnd(MARGIN)}${line}`).join("\n");
}
