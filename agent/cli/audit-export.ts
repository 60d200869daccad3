import { openAuditSource } from "./audit-source.ts";
import type { Command } from "./command.ts";
import { deliver, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "write records of an audit log, or of a running machine's, as JSON lines that `audit verify` takes",
  positionals: ["LOG"],
  options: {
    from: { type: "string", value: "SEQ", help: "from this record on; the first one that is kept if it is not given" },
    limit: { type: "string", value: "N", help: "so many records at most" },
    out: { type: "string", value: "FILE", help: "the records", required: true },
    json: JSON_OPTION,
  },
  examples: ["ironclaw audit export /run/ironclaw/state/audit --out audit.jsonl"],
  run: async (input, io) => {
    const from = input.integer("from", 1, Number.MAX_SAFE_INTEGER) ?? 1;
    const limit = input.integer("limit", 1, 1_000_000_000) ?? Number.POSITIVE_INFINITY;
    const lines: Uint8Array[] = [];
    let [first, last]: (number | null)[] = [null, null];
    io.phase("reading and checking the records");
    const source = await openAuditSource(input.positional(0));
    try {
      // A log is read to its end whatever is asked for: what is written is a part of one that verifies.
      for await (const { record, line } of source.records(from)) {
        if (record.seq < from || lines.length >= 2 * limit) continue;
        first ??= record.seq;
        last = record.seq;
        lines.push(line, LINE_FEED);
      }
    } finally {
      source.close();
    }
    const records = lines.length / 2;
    const sentence = records === 0 ? "no records" : `${records} records, ${first} to ${last}`;
    await deliver(input, io, Uint8Array.from(Buffer.concat(lines)), { records, first, last }, sentence);
    return 0;
  },
};

const LINE_FEED = Uint8Array.of(10);
