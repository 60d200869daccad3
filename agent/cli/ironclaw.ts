#!/usr/bin/env node
// The composition root: the one place that may load every folder, each command only when it is asked for.
import { IronclawError, printableText } from "../../policy/index.ts";
import { type Command, type CommandIo, parseCommandLine, renderHelp, UsageError } from "./command.ts";
import { oneLine } from "./output.ts";

type Loader = () => Promise<{ readonly command: Command }>;

/** Commands by their words. */
export const COMMANDS: Readonly<Record<string, Loader>> = {
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
  doctor: () => import("./doctor.ts"),
  "ear verify": () => import("./ear-verify.ts"),
  "ek show": () => import("./ek-show.ts"),
  enrol: () => import("./enrol.ts"),
  freeze: () => import("./freeze.ts"),
  "image build": () => import("./image-build.ts"),
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
};

/** Runs one command and resolves with its exit code. Never rejects; whatever goes wrong is one line in `io.complain`. */
export async function runIronclaw(args: readonly string[], io: CommandIo): Promise<number> {
  const safe: CommandIo = {
    input: io.input,
    print: (text) => io.print(printableText(text)),
    complain: (text) => io.complain(oneLine(text)),
  };
  const found = findCommand(args);
  try {
    if (found === null) return await listCommands(args, safe);
    const { command } = await found.load();
    if (found.rest.includes("--help") || found.rest.includes("-h")) {
      safe.print(renderHelp(`ironclaw ${found.words}`, command));
      return 0;
    }
    return await command.run(parseCommandLine(command, found.rest), safe);
  } catch (error) {
    return complain(error, found?.words, safe);
  }
}

function findCommand(args: readonly string[]): { words: string; load: Loader; rest: readonly string[] } | null {
  for (const count of [2, 1]) {
    const words = args.slice(0, count).join(" ");
    const load = Object.hasOwn(COMMANDS, words) ? COMMANDS[words] : undefined;
    if (load !== undefined) return { words, load, rest: args.slice(count) };
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

if (import.meta.main) {
  // Whoever reads only the first lines (`| head`) closes the pipe: that is no failure of ours.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 4));
  process.exitCode = await runIronclaw(process.argv.slice(2), {
    input: process.stdin,
    print: (text) => process.stdout.write(text.endsWith("\n") ? text : `${text}\n`),
    complain: (text) => process.stderr.write(`${text}\n`),
  });
}
