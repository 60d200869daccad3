import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Command, parseCommandLine } from "../../agent/cli/command.ts";
import { commandsOf as membersOf } from "../../agent/cli/help.ts";
import { COMMANDS } from "../../agent/cli/ironclaw.ts";
import { type DocumentedCommand, root } from "./documents.ts";

/** Programs whose commands in documents are checked; Debian's own (`dpkg`, `systemctl`) are not. */
export const PROGRAMS = ["ironclaw", "npm", "npx", "node", "sh"] as const;
/** npm's own commands that documents name. */
const NPM_COMMANDS: ReadonlySet<string> = new Set(["ci", "install", "pack", "publish"]);
/** Folders of this tree: `node test/...` is a file of it, `node example.ts` is one that a walk-through makes. */
const FOLDERS = /^(?:\.config|agent|attest|policy|seal|test|vm-images)\//;

/** Null for a command that is one; otherwise what is wrong with it. Nothing is run. */
export async function problemOf({ kind, words, open }: DocumentedCommand): Promise<string | null> {
  const [program, ...args] = words;
  const loose = kind === "span" || open || isSynopsis(args);
  if (program === "ironclaw" && args[0] === "help") return ironclawProblem([...args.slice(1), "--help"], true);
  if (program === "ironclaw") return ironclawProblem(args, loose);
  if (program === "npm") return npmProblem(args, loose);
  if (program === "npx") return npxProblem(args);
  return fileProblem(args);
}

/** `[--json]`, `...`: a form, not something to paste. */
function isSynopsis(words: readonly string[]): boolean {
  return words.some((word) => word.startsWith("[") || word.endsWith("]") || word.endsWith("..."));
}

async function ironclawProblem(args: readonly string[], loose: boolean): Promise<string | null> {
  const words = args
    .filter((word) => word !== "--no-color")
    .map((word) => word.replace(/^\[|\]$|,?\.\.\.\]?$/g, ""))
    .filter((word) => word !== "");
  const name = [words.slice(0, 2).join(" "), words[0] ?? ""].find((tried) => Object.hasOwn(COMMANDS, tried));
  if (name === undefined) return groupProblem(words);
  const command = (await COMMANDS[name]?.())?.command;
  if (command === undefined) return `${name}: cannot be loaded`;
  const given = words.slice(name.split(" ").length);
  if (given.includes("--help")) return null;
  return loose ? looseProblem(command, given) : strictProblem(command, given);
}

/** `ironclaw`, `ironclaw COMMAND`, `ironclaw policy`, `ironclaw --help`. */
function groupProblem(words: readonly string[]): string | null {
  const [first = "--help", second = "--help"] = words;
  const placeholder = first === "--help" || /^[A-Z]+$/.test(first);
  if (placeholder) return null;
  if (membersOf(first, COMMANDS) !== null && (second === "--help" || /^[A-Z]+$/.test(second))) return null;
  return `no command ${words.slice(0, 2).join(" ")}`;
}

function strictProblem(command: Command, given: readonly string[]): string | null {
  try {
    parseCommandLine(command, given);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : "does not parse";
  }
}

/** In a sentence a command may lack what it needs; what it has must exist. */
function looseProblem(command: Command, given: readonly string[]): string | null {
  const left: string[] = [];
  for (let index = 0; index < given.length; index++) {
    const [, name, value] = /^--([^=]+)(=.*)?$/.exec(given[index] ?? "") ?? [];
    if (name === undefined) {
      // An unset variable may be several options, or nothing.
      if (!/^\$\w+$/.test(given[index] ?? "")) left.push(given[index] ?? "");
      continue;
    }
    const option = Object.hasOwn(command.options, name) ? command.options[name] : undefined;
    if (option === undefined) return `no option --${name}`;
    if (option.type === "string" && value === undefined) index += 1;
  }
  const most = command.positionals.length;
  return left.length > most ? `expected at most ${most} arguments, got ${left.length}: ${left.join(" ")}` : null;
}

async function npmProblem(args: readonly string[], loose: boolean): Promise<string | null> {
  const [verb = "", ...rest] = args;
  if (NPM_COMMANDS.has(verb)) return null;
  const script = verb === "run" ? rest.find((word) => !word.startsWith("-")) : verb;
  if (script === undefined || !Object.hasOwn(scripts, script)) return `no script ${script}`;
  const given = args.includes("--") ? args.slice(args.indexOf("--") + 1) : [];
  if (script === "ironclaw") return ironclawProblem(given, loose);
  const options = given.flatMap((word) => /^\[?--([\w-]+)/.exec(word)?.[1] ?? []);
  const unknown = options.find((option) => !programOf(script).includes(option));
  return unknown === undefined ? null : `npm run ${script}: no option --${unknown}`;
}

const scripts: Readonly<Record<string, string>> = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).scripts;

/** The text of the program that a script runs: its options stand in a file of its folder. */
function programOf(script: string): string {
  const [, file] = /node (\S+\.ts)/.exec(scripts[script] ?? "") ?? [];
  if (file === undefined) return "";
  const folder = dirname(join(root, file));
  const sources = readdirSync(folder).filter((name) => name.endsWith(".ts"));
  return sources.map((name) => readFileSync(join(folder, name), "utf8")).join("\n");
}

function npxProblem([program = "", ...args]: readonly string[]): string | null {
  if (!existsSync(join(root, "node_modules/.bin", program))) return `no program ${program}`;
  return args.map((word) => fileProblem([word])).find((problem) => problem !== null) ?? null;
}

function fileProblem(args: readonly string[]): string | null {
  const file = args.find((word) => !word.startsWith("-")) ?? "";
  return FOLDERS.test(file) && !existsSync(join(root, file)) ? `no file ${file}` : null;
}
