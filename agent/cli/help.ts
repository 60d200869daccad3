import type { Command } from "./command.ts";

export type Loader = () => Promise<{ readonly command: Command }>;
export type Commands = Readonly<Record<string, Loader>>;

const EXIT_CODES =
  "exit codes: 0 ok, 1 refused or contraindicated, 2 usage, 3 malformed or unverifiable input, 4 environment";

/** Words that begin several commands, or one, and are none themselves. */
export function groupsOf(commands: Commands): readonly string[] {
  return [...new Set(Object.keys(commands).flatMap((words) => (words.includes(" ") ? [firstWord(words)] : [])))].sort();
}

/** A group's commands, or null for what is no group. */
export function commandsOf(group: string, commands: Commands): readonly string[] | null {
  const members = Object.keys(commands).filter((words) => words.startsWith(`${group} `));
  return members.length === 0 ? null : members.sort();
}

/** All commands, a line each. */
export async function renderList(commands: Commands): Promise<string> {
  return [
    "ironclaw: guest attestation and sealed HSM credentials",
    "",
    "usage: ironclaw COMMAND [options]",
    "",
    ...(await summaries(Object.keys(commands).sort(), commands)),
    "",
    EXIT_CODES,
    "`ironclaw COMMAND --help` explains one command, `ironclaw GROUP --help` lists a group with examples, `ironclaw explain CODE` a code.",
    "`--no-color` or NO_COLOR: no colours. Where they show, and progress too, standard error or output is a terminal.",
    "",
  ].join("\n");
}

/** One group: a line and the first example of each of its commands. */
export async function renderGroup(group: string, members: readonly string[], commands: Commands): Promise<string> {
  const examples = await Promise.all(members.map(async (words) => (await commands[words]?.())?.command.examples[0]));
  return [
    `ironclaw ${group}: ${members.length} commands`,
    "",
    `usage: ironclaw ${group} ${members.map((words) => words.slice(group.length + 1)).join("|")} [options]`,
    "",
    ...(await summaries(members, commands)),
    "",
    "examples:",
    ...examples.filter((example) => example !== undefined).map((example) => `  ${example}`),
    "",
    `\`ironclaw ${group} COMMAND --help\` explains one command.`,
    "",
  ].join("\n");
}

function summaries(words: readonly string[], commands: Commands): Promise<readonly string[]> {
  return Promise.all(
    words.map(async (name) => `  ${name.padEnd(18)} ${(await commands[name]?.())?.command.summary ?? ""}`),
  );
}

function firstWord(words: string): string {
  return words.split(" ")[0] ?? "";
}
