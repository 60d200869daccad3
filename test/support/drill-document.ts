import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { delimiter, join, resolve } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export const DRILLS = resolve(import.meta.dirname, "../../agent/docs/drills.md");

/** What a drill of agent/docs/drills.md is made of: commands, what they print, and what is done elsewhere (`> ...`). */
export type DrillStep =
  | { readonly kind: "type"; readonly script: string }
  | { readonly kind: "see"; readonly lines: readonly string[] }
  | { readonly kind: "do"; readonly act: string };

const STEP = /```sh\n(?<script>[\s\S]*?)```|```text\n(?<seen>[\s\S]*?)```|(?<act>(?:^> .*\n)+)/gm;

/** The steps between this heading and the next one of its level. */
export function readDrill(heading: string): readonly DrillStep[] {
  const text = readFileSync(DRILLS, "utf8");
  const start = text.indexOf(`\n## ${heading}\n`);
  if (start < 0) throw new Error(`${DRILLS}: no drill ${heading}`);
  const section = text.slice(start + 1).split(/\n## /)[0] ?? "";
  const steps = [...section.matchAll(STEP)].map(({ groups }): DrillStep => {
    if (groups?.["script"] !== undefined) return { kind: "type", script: groups["script"] };
    if (groups?.["seen"] !== undefined) return { kind: "see", lines: groups["seen"].trimEnd().split("\n") };
    return { kind: "do", act: (groups?.["act"] ?? "").replaceAll(/^> /gm, "").trimEnd().replaceAll("\n", " ") };
  });
  if (steps.length === 0) throw new Error(`${DRILLS}: nothing to do under ${heading}`);
  return steps;
}

export interface DrillRun {
  /** Has `bin/ironclaw`, and every file that the drill names. */
  readonly directory: string;
  readonly environment: Readonly<Record<string, string>>;
  /** What the drill says is done elsewhere, by its words. */
  readonly acts: Readonly<Record<string, () => Promise<unknown>>>;
}

/**
 * Runs a drill as it stands in the document: a command that fails ends it, a line that the document shows and the commands do not print
 * ends it, and so does an act that nobody does here. Resolves with all that was printed.
 */
export async function runDrill(heading: string, { directory, environment, acts }: DrillRun): Promise<string> {
  const printed: string[] = [];
  for (const step of readDrill(heading)) {
    if (step.kind === "do") await (acts[step.act] ?? unknownAct(step.act))();
    else if (step.kind === "see") expectSeen(step.lines, printed.at(-1) ?? "");
    else printed.push(await typed(directory, environment, step.script));
  }
  return printed.join("");
}

/** Standard output and what was complained of, in the order in which a terminal shows them. */
async function typed(directory: string, environment: DrillRun["environment"], script: string): Promise<string> {
  const PATH = `${join(directory, "bin")}${delimiter}${process.env["PATH"] ?? ""}`;
  const place = { cwd: directory, env: { ...process.env, ...environment, PATH } };
  try {
    return (await run("sh", ["-eu", "-c", `exec 2>&1\n${script}`], place)).stdout;
  } catch (error) {
    const { stdout } = error as { readonly stdout?: string };
    throw new Error(`${script}\nended with a failure after:\n${stdout ?? error}`);
  }
}

/** Each line, in this order; `...` stands for anything on a line. */
function expectSeen(lines: readonly string[], printed: string): void {
  let rest = printed.split("\n");
  for (const line of lines) {
    const pattern = new RegExp(`^${line.trim().split("...").map(RegExp.escape).join(".*")}$`);
    const at = rest.findIndex(
      (candidate) => pattern.test(candidate.trim().replaceAll(/ {2,}/g, "  ")) || pattern.test(candidate.trim()),
    );
    if (at < 0) throw new Error(`the document shows\n  ${line}\nand what was printed is\n${printed}`);
    rest = rest.slice(at + 1);
  }
}

function unknownAct(act: string): never {
  throw new Error(`nobody does "${act}" here`);
}
