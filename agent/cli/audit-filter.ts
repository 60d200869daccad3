import type { AuditRecord } from "../audit/record.ts";
import { type CommandInput, type CommandOption, UsageError } from "./command.ts";

/** Options of `audit show` that choose records. All that are given have to hold. */
export const FILTER_OPTIONS: Readonly<Record<string, CommandOption>> = {
  scope: { type: "string", value: "NAME", help: "of this scope, or token with operation shim" },
  caller: { type: "string", value: "UID", help: "of this uid, or of an executable: sha256:..." },
  decision: { type: "string", value: "WORD", help: "allow or deny" },
  step: { type: "string", value: "WORD", help: "refused at this step, e.g. mechanism or rate" },
  operation: { type: "string", value: "WORD", help: "e.g. sign, connect, shim, checkpoint" },
  since: { type: "string", value: "TIME", help: "at this time (UTC) or later" },
  until: { type: "string", value: "TIME", help: "before this time (UTC)" },
};

export function recordFilter(input: CommandInput): (record: AuditRecord) => boolean {
  const [since, until] = [timeOf(input, "since"), timeOf(input, "until")];
  const caller = callerOf(input);
  const words = (["scope", "step", "operation"] as const).flatMap((name) => {
    const word = input.optional(name);
    return word === undefined ? [] : [{ name, word }];
  });
  const decision = input.optional("decision");
  if (decision !== undefined && decision !== "allow" && decision !== "deny")
    throw new UsageError("--decision", { expected: "allow or deny", got: decision });
  return (record) => {
    const time = Date.parse(record.time);
    const inTime = time >= (since ?? Number.NEGATIVE_INFINITY) && time < (until ?? Number.POSITIVE_INFINITY);
    const decided = decision === undefined || record.decision === decision;
    return inTime && decided && caller(record) && words.every(({ name, word }) => record[name] === word);
  };
}

function timeOf(input: CommandInput, name: string): number | undefined {
  const time = input.time(name);
  return time === undefined ? undefined : Date.parse(time);
}

function callerOf(input: CommandInput): (record: AuditRecord) => boolean {
  const got = input.optional("caller");
  if (got === undefined) return () => true;
  if (/^(?:0|[1-9][0-9]{0,9})$/.test(got)) return ({ caller }) => caller?.uid === Number(got);
  if (/^sha256:[0-9a-f]{64}$/.test(got)) return ({ caller }) => caller?.exe === got;
  throw new UsageError("--caller", { expected: "a uid, or sha256: and 64 hexadecimal digits", got });
}
