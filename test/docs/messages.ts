import { CODE_SECTIONS, type CodeSection } from "../../agent/cli/codes/catalogue.ts";
import { LOG_ACTS } from "../../agent/cli/codes/log-lines.ts";
import { LOG_LEVELS } from "../../agent/journal.ts";
import { type LogMessage, logMessages } from "./log-messages.ts";
import { type OtherLines, otherLines } from "./other-lines.ts";

const HEAD = `# Every code and every message

For whoever reads a code or a line and wants to know what it means and what to do. \`ironclaw explain CODE\` prints the same. This page is made from the sources by
\`node test/docs/published.ts\`; a test fails for a code or a line that is not in it.

Exit codes of every command: 0 done, 1 refused or contraindicated, 2 usage, 3 malformed or unverifiable input, 4 environment. Where a code ends a command, its row says with which.
`;

const LOG_HEAD = `## Lines of the log

\`LEVEL COMPONENT: MESSAGE\` ([LOGS.md](../LOGS.md)); \`...\` stands for a value, which is often one of the errors above.
`;

/** agent/docs/messages.md. */
export function messagesDocument(): string {
  return [HEAD, ...CODE_SECTIONS.map(sectionOf), LOG_HEAD, logTable(), "", ...otherLines().map(linesOf)].join("\n");
}

function linesOf({ title, seen, lines, acts }: OtherLines): string {
  const rows = lines.map((line) => row(`\`${line}\``, acts[line] ?? ""));
  return [`## ${title}`, "", `Seen: ${seen}`, "", ...table(["line", "do"], rows), ""].join("\n");
}

function sectionOf({ title, seen, codes, exitOf }: CodeSection): string {
  const exit = exitOf === undefined ? [] : ["exit"];
  const rows = Object.entries(codes).map(([code, { means, act }]) =>
    row(`\`${code}\``, ...(exitOf === undefined ? [] : [`${exitOf(code)}`]), means, act),
  );
  return [`## ${title}`, "", `Seen: ${seen}`, "", ...table(["code", ...exit, "means", "do"], rows), ""].join("\n");
}

function logTable(): string {
  const rows = logMessages().map((line) =>
    row(
      line.level.toUpperCase(),
      line.component,
      `\`${line.message}\``,
      LOG_ACTS[`${line.component} ${line.message}`] ?? "",
    ),
  );
  return table(["level", "component", "message", "do"], rows).join("\n");
}

/** Lines that ask for something to be done. */
export function needsAct({ level }: LogMessage): boolean {
  return LOG_LEVELS[level] <= LOG_LEVELS.warning;
}

function table(head: readonly string[], rows: readonly string[]): readonly string[] {
  return [row(...head), row(...head.map(() => "---")), ...rows];
}

function row(...cells: readonly string[]): string {
  return `| ${cells.map((cell) => plain(cell).replaceAll("|", "\\|")).join(" | ")} |`;
}

/** Outside code an angle bracket would be taken for a tag, and not be shown. */
function plain(cell: string): string {
  return cell.replaceAll(/`[^`]*`|</g, (found) => (found === "<" ? "\\<" : found));
}
