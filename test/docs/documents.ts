import { readdirSync, readFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { commandsIn, type SimpleCommand } from "./shell.ts";

export const root = resolve(import.meta.dirname, "../..");
/** What is built or fetched, or belongs to somebody else. */
const FOREIGN: ReadonlySet<string> = new Set(["node_modules", "build", ".git", "coverage"]);

/** A command as a document has it. */
export interface DocumentedCommand {
  /** Path from the root, a colon, and the line. */
  readonly place: string;
  readonly document: string;
  /** The nearest heading above, without its marks; empty before the first. */
  readonly heading: string;
  /** The nearest heading above that has two marks. */
  readonly section: string;
  /** `block`: somebody will paste it. `span`: named in a sentence. */
  readonly kind: "block" | "span";
  readonly words: readonly string[];
  /** Of a block: some of its words are in a variable that the document does not set. */
  readonly open: boolean;
}

export function documents(folder = root): readonly string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter(({ name }) => !FOREIGN.has(name))
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) return documents(path);
      return entry.name.endsWith(".md") ? [relative(root, path)] : [];
    })
    .sort();
}

interface Block {
  readonly text: string;
  /** Of its first line, from 1. */
  readonly line: number;
  readonly heading: string;
  readonly section: string;
}

/** Commands of a document that begin with one of `programs`. */
export function commandsOf(document: string, text: string, programs: readonly string[]): readonly DocumentedCommand[] {
  const { blocks, sentences } = takeApart(text);
  const variables = new Map<string, string>();
  const command = (
    kind: "block" | "span",
    { line, heading, section }: Block,
    { words, open, line: offset }: SimpleCommand,
  ) =>
    programs.includes(words[0] ?? "")
      ? [{ place: `${document}:${line + offset}`, document, heading, section, kind, words, open }]
      : [];
  return [
    ...blocks.flatMap((block) =>
      commandsIn(block.text, variables).flatMap((simple) => command("block", block, simple)),
    ),
    ...sentences.flatMap((sentence) =>
      [...sentence.text.matchAll(/(`+)(.+?)\1/g)].flatMap(([, , span = ""]) =>
        commandsIn(span).flatMap((simple) => command("span", sentence, simple)),
      ),
    ),
  ];
}

/** Fenced blocks for a shell, indented blocks, and the lines of everything else. */
function takeApart(text: string): { readonly blocks: readonly Block[]; readonly sentences: readonly Block[] } {
  const blocks: Block[] = [];
  const sentences: Block[] = [];
  let fence: { readonly end: string; readonly shell: boolean; readonly line: number; readonly lines: string[] } | null =
    null;
  let heading = "";
  let section = "";
  let indented: { readonly line: number; readonly lines: string[] } | null = null;
  const lines = text.split("\n");
  const endIndented = () => {
    if (indented !== null)
      blocks.push({ text: `${indented.lines.join("\n")}\n`, line: indented.line, heading, section });
    indented = null;
  };
  for (const [index, line] of lines.entries()) {
    const [, open, language = ""] = /^ *(```+|~~~+)\s*(\w*)/.exec(line) ?? [];
    if (fence !== null) {
      if (line.trim() !== fence.end) fence.lines.push(line);
      else {
        if (fence.shell) blocks.push({ text: `${fence.lines.join("\n")}\n`, line: fence.line, heading, section });
        fence = null;
      }
    } else if (open !== undefined) {
      endIndented();
      const shell = ["", "sh", "shell", "bash", "console"].includes(language);
      fence = { end: open, shell, line: index + 2, lines: [] };
    } else if (/^ {4}/.test(line) && (indented !== null || (lines[index - 1] ?? "").trim() === "")) {
      indented ??= { line: index + 1, lines: [] };
      indented.lines.push(line.slice(4));
    } else {
      endIndented();
      heading = /^#+ (.*)$/.exec(line)?.[1] ?? heading;
      section = /^## (.*)$/.exec(line)?.[1] ?? section;
      sentences.push({ text: line, line: index + 1, heading, section });
    }
  }
  endIndented();
  return { blocks, sentences };
}

export function readDocument(document: string): string {
  return readFileSync(join(root, document), "utf8");
}
