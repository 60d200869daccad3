import { parseArgs } from "node:util";
import { type ExitCode, IronclawError } from "../../policy/index.ts";

export interface CommandIo {
  /** Standard output: the answer, and nothing else. */
  print(text: string): void;
  /** Standard error: progress, errors, hints. */
  complain(text: string): void;
}

export interface CommandOption {
  readonly type: "string" | "boolean";
  readonly multiple?: boolean;
  /** What stands for the value in the help, e.g. `FILE`. Absent for switches. */
  readonly value?: string;
  readonly help: string;
  readonly required?: boolean;
}

export interface Command {
  /** One line for the list of commands. */
  readonly summary: string;
  /** Names of the positional arguments, all required, e.g. `REPORT`. */
  readonly positionals: readonly string[];
  readonly options: Readonly<Record<string, CommandOption>>;
  readonly examples: readonly string[];
  run(input: CommandInput, io: CommandIo): Promise<0 | ExitCode>;
}

/** What the person asked for in a way that cannot be: exit code 2. */
export class UsageError extends IronclawError {
  readonly code = "ERR_USAGE";
  readonly exitCode = 2;
}

/** Parsed arguments of one command. */
export class CommandInput {
  readonly #values: Readonly<Record<string, unknown>>;
  readonly #positionals: readonly string[];

  constructor(values: Readonly<Record<string, unknown>>, positionals: readonly string[]) {
    this.#values = values;
    this.#positionals = positionals;
  }

  positional(index: number): string {
    return this.#positionals[index] ?? "";
  }
  text(name: string): string {
    const value = this.#values[name];
    if (typeof value !== "string") throw new UsageError(`--${name}`, { expected: "a value", got: "none" });
    return value;
  }
  optional(name: string): string | undefined {
    const value = this.#values[name];
    return typeof value === "string" ? value : undefined;
  }
  flag(name: string): boolean {
    return this.#values[name] === true;
  }
}

/** @throws UsageError for an unknown option, a missing one, or too many or too few arguments */
export function parseCommandLine(command: Command, args: readonly string[]): CommandInput {
  const options = Object.fromEntries(Object.entries(command.options).map(([name, { type }]) => [name, { type }]));
  let parsed: { values: Record<string, unknown>; positionals: string[] };
  try {
    parsed = parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
  } catch (error) {
    throw new UsageError(error instanceof Error ? (error.message.split(". ")[0] ?? "usage") : "usage");
  }
  if (parsed.positionals.length !== command.positionals.length) {
    const expected = command.positionals.join(" ") || "no arguments";
    throw new UsageError("arguments", { expected, got: parsed.positionals.join(" ") || "none" });
  }
  for (const [name, option] of Object.entries(command.options)) {
    if (option.required === true && parsed.values[name] === undefined) {
      throw new UsageError(`--${name} ${option.value ?? ""}`.trim(), { expected: "a value", got: "none" });
    }
  }
  return new CommandInput(parsed.values, parsed.positionals);
}

export function renderHelp(path: string, command: Command): string {
  const options = Object.entries(command.options).map(([name, option]) => {
    const left = `  --${name}${option.value === undefined ? "" : ` ${option.value}`}`;
    return `${left.padEnd(30)} ${option.help}${option.required === true ? " (required)" : ""}`;
  });
  return [
    `${path}: ${command.summary}`,
    "",
    `usage: ${[path, ...command.positionals].join(" ")}${options.length > 0 ? " [options]" : ""}`,
    ...(options.length > 0 ? ["", ...options] : []),
    "",
    "examples:",
    ...command.examples.map((example) => `  ${example}`),
    "",
  ].join("\n");
}
