#!/usr/bin/env node
// The composition root: the one place that may load every folder, each command only when it is asked for.
import { IronclawError, printableText } from "../../policy/index.ts";
import { colourWords, wantsColour } from "./colour.ts";
import { type CommandIo, parseCommandLine, renderHelp, UsageError } from "./command.ts";
import { type Commands, commandsOf, groupsOf, type Loader, renderGroup, renderList } from "./help.ts";
import { oneLine } from "./output.ts";
import { CommandProgress, type ProgressStream } from "./progress.ts";
import { nearest, suggestCommands } from "./suggest.ts";

/** Commands by their words. */
export const COMMANDS: Commands = {
  agent: () => import("./agent.ts"),
  "appraisal check": () => import("./appraisal-check.ts"),
  "appraisal schema": () => import("./appraisal-schema.ts"),
  "audit export": () => import("./audit-export.ts"),
  "audit show": () => import("./audit-show.ts"),
  "approve list": () => import("./approve-list.ts"),
  "approve show": () => import("./approve-show.ts"),
  "approve sign": () => import("./approve-sign.ts"),
  "audit verify": () => import("./audit-verify.ts"),
  "cabinet list": () => import("./cabinet-list.ts"),
  "cabinet new": () => import("./cabinet-new.ts"),
  "cabinet put": () => import("./cabinet-put.ts"),
  "cabinet verify": () => import("./cabinet-verify.ts"),
  doctor: () => import("./doctor.ts"),
  "ear verify": () => import("./ear-verify.ts"),
  "ek show": () => import("./ek-show.ts"),
  enrol: () => import("./enrol.ts"),
  explain: () => import("./explain.ts"),
  freeze: () => import("./freeze.ts"),
  "image boot": () => import("./image-boot.ts"),
  "image build": () => import("./image-build.ts"),
  "image lock": () => import("./image-lock.ts"),
  "image predict": () => import("./image-predict.ts"),
  "keys anchors": () => import("./keys-anchors.ts"),
  "keys delegate": () => import("./keys-delegate.ts"),
  "keys new": () => import("./keys-new.ts"),
  "keys public": () => import("./keys-public.ts"),
  "log show": () => import("./log-show.ts"),
  measure: () => import("./measure.ts"),
  metrics: () => import("./metrics.ts"),
  narrow: () => import("./narrow.ts"),
  "order new-volume": () => import("./order-new-volume.ts"),
  "order provision": () => import("./order-provision.ts"),
  "order retry-login": () => import("./order-retry-login.ts"),
  "order unfreeze": () => import("./order-unfreeze.ts"),
  "policy check": () => import("./policy-check.ts"),
  "policy diff": () => import("./policy-diff.ts"),
  "policy explain": () => import("./policy-explain.ts"),
  "policy new": () => import("./policy-new.ts"),
  "policy schema": () => import("./policy-schema.ts"),
  "policy test": () => import("./policy-test.ts"),
  "policy sign": () => import("./policy-sign.ts"),
  "profile explain": () => import("./profile-explain.ts"),
  "release diff": () => import("./release-diff.ts"),
  "release predict": () => import("./release-predict.ts"),
  "release show": () => import("./release-show.ts"),
  "release sign": () => import("./release-sign.ts"),
  report: () => import("./report.ts"),
  reseal: () => import("./reseal.ts"),
  seal: () => import("./seal.ts"),
  sessions: () => import("./sessions.ts"),
  "sessions end": () => import("./sessions-end.ts"),
  status: () => import("./status.ts"),
  "tpm note-login": () => import("./tpm-note-login.ts"),
  "tpm own": () => import("./tpm-own.ts"),
  "tpm play": () => import("./tpm-play.ts"),
  "tpm provision": () => import("./tpm-provision.ts"),
  "tpm raise": () => import("./tpm-raise.ts"),
  "tpm show": () => import("./tpm-show.ts"),
  "tpm software": () => import("./tpm-software.ts"),
  "tpm unlock": () => import("./tpm-unlock.ts"),
  unseal: () => import("./unseal.ts"),
  "verifier check": () => import("./verifier-check.ts"),
  "verifier clear": () => import("./verifier-clear.ts"),
  "verifier enrol": () => import("./verifier-enrol.ts"),
  "verifier init": () => import("./verifier-init.ts"),
  "verifier invite": () => import("./verifier-invite.ts"),
  "verifier machines": () => import("./verifier-machines.ts"),
  "verifier push": () => import("./verifier-push.ts"),
  "verifier retire": () => import("./verifier-retire.ts"),
  "verifier serve": () => import("./verifier-serve.ts"),
  "verifier token": () => import("./verifier-token.ts"),
  verify: () => import("./verify.ts"),
  "workload sign": () => import("./workload-sign.ts"),
};

/** What a program is given by its shell. */
export interface ProgramIo extends Omit<CommandIo, "phase"> {
  /** Absent: no colours, no progress. */
  readonly terminal?: {
    readonly colours: { readonly print: boolean; readonly complain: boolean };
    readonly progress: ProgressStream;
  };
}

/** Runs one command and resolves with its exit code. Never rejects; whatever goes wrong is one line in `io.complain`. */
export async function runIronclaw(given: readonly string[], io: ProgramIo): Promise<number> {
  const { args, plain } = withoutColour(given[0] === "help" ? [...given.slice(1), "--help"] : given);
  const found = findCommand(args);
  const json = args.includes("--json");
  const progress = found === null || json ? null : (io.terminal?.progress ?? null);
  const shown = progress === null || found === null ? null : new CommandProgress(`ironclaw ${found.words}`, progress);
  const safe = safeIo(io, shown, plain || json);
  try {
    if (found === null) return await listCommands(args, safe);
    const { command } = await found.load();
    if (asksForHelp(found.rest)) {
      const others = (commandsOf(found.words, COMMANDS) ?? []).map((words) => `  ironclaw ${words} --help`);
      safe.print([renderHelp(`ironclaw ${found.words}`, command), ...others].join("\n"));
      return 0;
    }
    if (command.talks === true) shown?.end();
    return await command.run(parseCommandLine(command, command.absent === true ? [] : found.rest), safe);
  } catch (error) {
    return complain(error, found?.words, safe);
  } finally {
    shown?.end();
  }
}

/** Nothing that a command writes drives a terminal; the few colours are put on afterwards. */
function safeIo(
  { input, print, complain, terminal }: ProgramIo,
  shown: CommandProgress | null,
  plain: boolean,
): CommandIo {
  const colour = (text: string, wanted: boolean | undefined) => (wanted === true && !plain ? colourWords(text) : text);
  return {
    input,
    print: (text) => {
      shown?.clear();
      print(colour(printableText(text), terminal?.colours.print));
    },
    complain: (text) => {
      shown?.clear();
      complain(colour(oneLine(text), terminal?.colours.complain));
    },
    phase: (name) => shown?.phase(name),
  };
}

/** `--no-color` goes with every command, and is none of its options. */
function withoutColour(given: readonly string[]): { readonly args: readonly string[]; readonly plain: boolean } {
  const end = given.indexOf("--");
  const args = given.filter((word, index) => word !== "--no-color" || (end >= 0 && index > end));
  return { args, plain: args.length < given.length };
}

const asksForHelp = (args: readonly string[]) => args.includes("--help") || args.includes("-h");

function findCommand(args: readonly string[]): { words: string; load: Loader; rest: readonly string[] } | null {
  for (const count of [2, 1]) {
    const words = args.slice(0, count).join(" ");
    const load = Object.hasOwn(COMMANDS, words) ? COMMANDS[words] : undefined;
    if (load !== undefined) return { words, load, rest: args.slice(count) };
  }
  return null;
}

async function listCommands(args: readonly string[], io: CommandIo): Promise<number> {
  const [first = "--help"] = args;
  const members = commandsOf(first, COMMANDS);
  if (members !== null && (args.length === 1 || args[1]?.startsWith("-"))) {
    if (!asksForHelp(args)) throw incomplete(first, members);
    io.print(await renderGroup(first, members, COMMANDS));
    return 0;
  }
  if (first !== "--help" && first !== "-h") throw unknownCommand(args);
  io.print(await renderList(COMMANDS));
  return 0;
}

function incomplete(group: string, members: readonly string[]): UsageError {
  return new UsageError("command", {
    expected: `one of ${members.join(", ")}`,
    got: group,
    hint: `\`ironclaw ${group} --help\` lists them with examples`,
  });
}

function unknownCommand(args: readonly string[]): UsageError {
  const [first = ""] = args;
  const members = commandsOf(first, COMMANDS);
  const meant = suggestCommands(args, Object.keys(COMMANDS));
  if (members !== null && meant.length === 0) return incomplete(first, members);
  const group = nearest([first], groupsOf(COMMANDS));
  const suggested = meant.length === 0 && group !== null ? [group] : meant;
  return new UsageError("command", {
    expected: "one of those that `ironclaw --help` lists",
    got: args.slice(0, 2).join(" "),
    ...(suggested.length === 0
      ? {}
      : { hint: `did you mean ${suggested.map((words) => `\`ironclaw ${words}\``).join(" or ")}?` }),
  });
}

/** One line, a hint where there is one, never a stack trace. What was not foreseen is an environment failure. */
function complain(error: unknown, words: string | undefined, io: CommandIo): number {
  if (error instanceof IronclawError) {
    const help = words === undefined ? undefined : `\`ironclaw ${words} --help\` lists the options`;
    const hint = error.hint ?? (error instanceof UsageError ? help : undefined);
    io.complain(`ironclaw: ${error.message} (${error.code})`);
    if (hint !== undefined) io.complain(`hint: ${hint}`);
    return error.exitCode;
  }
  const code = error instanceof Error && "code" in error ? String(error.code) : "ERR_INTERNAL";
  io.complain(`ironclaw: ${error instanceof Error ? error.message : "unknown failure"} (${code})`);
  return 4;
}

/** How the shell's terminal takes colours and progress. */
function terminalOf({ stdout, stderr, env }: NodeJS.Process): ProgramIo["terminal"] {
  const rewrites = stderr.isTTY === true && env["TERM"] !== "dumb";
  return {
    colours: { print: wantsColour(stdout.isTTY === true, env), complain: wantsColour(stderr.isTTY === true, env) },
    progress: { write: (text) => void stderr.write(text), rewrites, columns: stderr.columns ?? 80 },
  };
}

if (import.meta.main) {
  // Whoever reads only the first lines (`| head`) closes the pipe: that is no failure of ours.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 4));
  // A program that serves must outlive its console.
  process.stderr.on("error", () => undefined);
  const terminal = terminalOf(process);
  process.exitCode = await runIronclaw(process.argv.slice(2), {
    input: process.stdin,
    print: (text) => process.stdout.write(text.endsWith("\n") ? text : `${text}\n`),
    complain: (text) => process.stderr.write(`${text}\n`),
    ...(terminal === undefined ? {} : { terminal }),
  });
}
