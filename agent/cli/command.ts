import { parseArgs } from "node:util";
import { type ExitCode, fromHex, IronclawError } from "../../policy/index.ts";
import { nearest } from "./suggest.ts";

/** Standard input, for secrets. */
export type SecretInput = AsyncIterable<Uint8Array> & { readonly isTTY?: boolean };

export interface CommandIo {
  readonly input: SecretInput;
  /** Standard output: the answer, and nothing else. */
  print(text: string): void;
  /** Standard error: progress, errors, hints. */
  complain(text: string): void;
  /** What is being done from here on, for whoever waits longer than two seconds. Never with `--json`. */
  phase(name: string): void;
}

export interface CommandOption {
  readonly type: "string" | "boolean";
  /** What stands for the value in the help, e.g. `FILE`. Absent for switches. */
  readonly value?: string;
  readonly help: string;
  readonly required?: boolean;
  /** May be given several times, see `CommandInput.list`; every other option once. */
  readonly multiple?: boolean;
}

export interface Command {
  /** One line for the list of commands. */
  readonly summary: string;
  /** Names of the positional arguments, all required, e.g. `REPORT`. */
  readonly positionals: readonly string[];
  readonly options: Readonly<Record<string, CommandOption>>;
  readonly examples: readonly string[];
  /** Speaks with a person, or goes on until it is told to end: no progress is shown. */
  readonly talks?: true;
  /** In a package that leaves it out: it refuses, whatever it is given. */
  readonly absent?: true;
  run(input: CommandInput, io: CommandIo): Promise<0 | ExitCode>;
}

/** What the person asked for in a way that cannot be: exit code 2. */
export class UsageError extends IronclawError {
  readonly code = "ERR_USAGE";
  readonly exitCode = 2;
}

/** Parsed arguments of one command. Every way to read one refuses what it does not understand with a UsageError. */
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
    const value = this.optional(name);
    if (value === undefined) throw new UsageError(`--${name}`, { expected: "a value", got: "none" });
    return value;
  }
  optional(name: string): string | undefined {
    const value = this.#values[name];
    return typeof value === "string" ? value : undefined;
  }
  /** Every value of an option that may be given several times, in their order. */
  list(name: string): readonly string[] {
    const values = this.#values[name];
    return Array.isArray(values) ? values.filter((value) => typeof value === "string") : [];
  }
  flag(name: string): boolean {
    return this.#values[name] === true;
  }
  /** A decimal number from `min` to `max`, or undefined when the option is not given. */
  integer(name: string, min: number, max: number): number | undefined {
    const got = this.optional(name);
    if (got === undefined) return undefined;
    const value = /^(?:0|[1-9][0-9]{0,14})$/.test(got) ? Number(got) : Number.NaN;
    if (value >= min && value <= max) return value;
    throw new UsageError(`--${name}`, { expected: `a number from ${min} to ${max}`, got });
  }
  /** A whole UTC time in ISO 8601, or undefined when the option is not given. */
  time(name: string): string | undefined {
    const got = this.optional(name);
    if (got === undefined) return undefined;
    const whole = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z$/.test(got) && !Number.isNaN(Date.parse(got));
    if (whole) return got;
    throw new UsageError(`--${name}`, { expected: "a time in UTC, e.g. 2027-11-01T00:00:00Z", got });
  }
  /** One of `values`; the first of them when the option is not given. */
  choice<T extends string>(name: string, values: readonly [T, ...T[]]): T {
    const got = this.optional(name) ?? values[0];
    const found = values.find((value) => value === got);
    if (found === undefined) throw new UsageError(`--${name}`, { expected: values.join(" or "), got });
    return found;
  }
  /** Exactly `bytes` bytes in hexadecimal. */
  hex(name: string, bytes: number): Uint8Array {
    const got = this.text(name);
    if (new RegExp(`^[0-9a-f]{${2 * bytes}}$`).test(got)) return fromHex(got);
    throw new UsageError(`--${name}`, {
      expected: `${bytes} bytes in lower-case hexadecimal`,
      got: `${got.length} characters`,
    });
  }
}

/** @throws UsageError for an unknown option, a missing one, one given twice, or too many or too few arguments */
export function parseCommandLine(command: Command, args: readonly string[]): CommandInput {
  const options = Object.fromEntries(
    // Collected as lists, because of two values `parseArgs` would silently keep the last.
    Object.entries(command.options).map(([name, { type }]) => [name, { type, multiple: true }]),
  );
  let parsed: { values: Record<string, unknown>; positionals: string[] };
  try {
    parsed = parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
  } catch (error) {
    throw unreadable(error, Object.keys(command.options));
  }
  if (parsed.positionals.length !== command.positionals.length) {
    const expected = command.positionals.join(" ") || "no arguments";
    // Not repeated: one of them may be a PIN that somebody took for an argument.
    const count = parsed.positionals.length;
    throw new UsageError("arguments", { expected, got: count === 0 ? "none" : `${count}` });
  }
  const values = Object.entries(command.options).map(([name, option]) => [
    name,
    givenValue(`--${name} ${option.value ?? ""}`.trim(), option, parsed.values[name]),
  ]);
  return new CommandInput(Object.fromEntries(values), parsed.positionals);
}

/** What `parseArgs` has against the arguments, in this program's words, and the option that was probably meant. */
function unreadable(error: unknown, options: readonly string[]): UsageError {
  const message = error instanceof Error ? error.message : "";
  const [, option = "option"] = /'(-[^' ]*)/.exec(message) ?? [];
  if (message.startsWith("Unknown option")) {
    const meant = nearest([option.replace(/^-+/, "")], [...options, "help"]);
    const hint = meant === null ? {} : { hint: `did you mean --${meant}?` };
    return new UsageError("options", { expected: "those that `--help` lists", got: option, ...hint });
  }
  if (message.includes("does not take")) return new UsageError(option, { expected: "no value", got: "one" });
  if (!message.includes("ambiguous")) return new UsageError(option, { expected: "a value", got: "none" });
  const hint = `a value that begins with - is written ${option}=VALUE`;
  return new UsageError(option, { expected: "a value", got: "what may be another option", hint });
}

function givenValue(what: string, { required, multiple }: CommandOption, given: unknown): unknown {
  const found: readonly unknown[] = Array.isArray(given) ? given : [];
  if (required === true && found.length === 0) throw new UsageError(what, { expected: "a value", got: "none" });
  if (multiple === true) return found;
  if (found.length > 1) throw new UsageError(what, { expected: "it once", got: `${found.length} times` });
  return found[0];
}

export function renderHelp(path: string, command: Command): string {
  const options = Object.entries(command.options).map(([name, option]) => {
    const left = `  --${name}${option.value === undefined ? "" : ` ${option.value}`}`;
    const notes = [...(option.required ? ["required"] : []), ...(option.multiple ? ["may be given again"] : [])];
    return `${left.padEnd(30)} ${option.help}${notes.length === 0 ? "" : ` (${notes.join(", ")})`}`;
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
