#!/usr/bin/env node
// The composition root: the one place that may load every folder, each command only when it is asked for.
import { IronclawError } from "../../policy/index.ts";
import { type Command, type CommandIo, parseCommandLine, renderHelp, UsageError } from "./command.ts";

type Loader = () => Promise<{ readonly command: Command }>;

/** Commands by their words. `verifier`, `approve`, `freeze`, `sessions`, `doctor` and `reseal` are not there yet. */
const COMMANDS: Readonly<Record<string, Loader>> = {
  agent: () => import("./agent.ts"),
  "audit verify": () => import("./audit-verify.ts"),
  enrol: () => import("./enrol.ts"),
  "image build": () => import("./image-build.ts"),
  "image predict": () => import("./image-predict.ts"),
  measure: () => import("./measure.ts"),
  "policy check": () => import("./policy-check.ts"),
  "release predict": () => import("./release-predict.ts"),
  "release sign": () => import("./release-sign.ts"),
  report: () => import("./report.ts"),
  seal: () => import("./seal.ts"),
  verify: () => import("./verify.ts"),
};

export async function runIronclaw(args: readonly string[], io: CommandIo): Promise<number> {
  try {
    const found = findCommand(args);
    if (found === null) return await listCommands(args, io);
    const { command } = await found.load();
    if (found.rest.includes("--help") || found.rest.includes("-h")) {
      io.print(renderHelp(`ironclaw ${found.words}`, command));
      return 0;
    }
    return await command.run(parseCommandLine(command, found.rest), io);
  } catch (error) {
    return complain(error, io);
  }
}

function findCommand(args: readonly string[]): { words: string; load: Loader; rest: readonly string[] } | null {
  for (const count of [2, 1]) {
    const words = args.slice(0, count).join(" ");
    const load = COMMANDS[words];
    if (load !== undefined && Object.hasOwn(COMMANDS, words)) return { words, load, rest: args.slice(count) };
  }
  return null;
}

async function listCommands(args: readonly string[], io: CommandIo): Promise<number> {
  const asked = args.length === 0 || args[0] === "--help" || args[0] === "-h";
  if (!asked)
    throw new UsageError("command", {
      expected: "one of those that `ironclaw --help` lists",
      got: args.slice(0, 2).join(" "),
    });
  const rows = await Promise.all(
    Object.entries(COMMANDS).map(async ([words, load]) => `  ${words.padEnd(18)} ${(await load()).command.summary}`),
  );
  io.print(
    [
      "ironclaw: guest attestation and sealed HSM credentials",
      "",
      "usage: ironclaw COMMAND [options]",
      "",
      ...rows,
      "",
      "exit codes: 0 ok, 1 refused or contraindicated, 2 usage, 3 malformed or unverifiable input, 4 environment",
      "`ironclaw COMMAND --help` explains one command.",
      "",
    ].join("\n"),
  );
  return 0;
}

/** One line, a hint where there is one, never a stack trace. What was not foreseen is an environment failure. */
function complain(error: unknown, io: CommandIo): number {
  if (error instanceof IronclawError) {
    io.complain(`ironclaw: ${error.message} (${error.code})`);
    if (error.hint !== undefined) io.complain(`hint: ${error.hint}`);
    return error.exitCode;
  }
  io.complain(`ironclaw: ${error instanceof Error ? error.message : "unknown failure"}`);
  return 4;
}

if (import.meta.main) {
  process.exitCode = await runIronclaw(process.argv.slice(2), {
    print: (text) => process.stdout.write(text.endsWith("\n") ? text : `${text}\n`),
    complain: (text) => process.stderr.write(`${text}\n`),
  });
}
