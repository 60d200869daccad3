import { readAudit } from "../audit.ts";
import type { Command } from "./command.ts";

export const command: Command = {
  summary: "check the hash chain of an audit log",
  positionals: ["FILE"],
  options: { json: { type: "boolean", help: "print one JSON document" } },
  examples: ["ironclaw audit verify audit.log", "ironclaw audit verify audit.log --json"],
  run: async (input, io) => {
    const records = readAudit(input.positional(0), 1, Number.MAX_SAFE_INTEGER);
    const last = records.at(-1);
    const head = { seq: last?.seq ?? 0, hash: last?.hash ?? null };
    io.print(
      input.flag("json")
        ? JSON.stringify({ ok: true, ...head })
        : `${records.length} records, head ${head.seq} ${head.hash ?? "(empty log)"}`,
    );
    return 0;
  },
};
