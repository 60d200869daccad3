import { verifyAudit } from "../audit.ts";
import type { AuditHead } from "../audit-record.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "check the hash chain of an audit log, and that it holds a record that a report named",
  positionals: ["FILE"],
  options: {
    head: { type: "string", value: "SEQ:HASH", help: "the audit head of a verified report: the log must reach it" },
    json: JSON_OPTION,
  },
  examples: ["ironclaw audit verify audit.log", "ironclaw audit verify audit.log --head 42:9f3c... --json"],
  run: async (input, io) => {
    const { seq, hash } = verifyAudit(input.positional(0), parseHead(input));
    const text = seq === 0 ? "0 records, an empty log" : `${seq} records, head ${seq}:${hash}`;
    answer(input, io, { ok: true, seq, hash: seq === 0 ? null : hash }, text);
    return 0;
  },
};

function parseHead(input: CommandInput): AuditHead | null {
  const text = input.optional("head");
  if (text === undefined) return null;
  const parts = /^([1-9][0-9]{0,14}):([0-9a-f]{64})$/.exec(text);
  if (parts?.[1] === undefined || parts[2] === undefined)
    throw new UsageError("--head", { expected: "a record's number, a colon and 64 hexadecimal digits", got: text });
  return { seq: Number(parts[1]), hash: parts[2] };
}
