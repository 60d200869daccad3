import { setTimeout as delay } from "node:timers/promises";
import { printableJson, printableText } from "../../policy/index.ts";
import type { AuditHead, AuditRecord } from "../audit/record.ts";
import { expectKnown, expectReached, knownHead } from "../audit/verify.ts";
import { FILTER_OPTIONS, recordFilter } from "./audit-filter.ts";
import { type AuditSource, openAuditSource, type SourceRecord } from "./audit-source.ts";
import type { Command } from "./command.ts";

/** How often a log that is followed is looked at. */
const INTERVAL = 1_000;

export const command: Command = {
  summary: "show records of an audit log, or of a running machine's",
  positionals: ["LOG"],
  options: {
    ...FILTER_OPTIONS,
    from: { type: "string", value: "SEQ", help: "from this record on; the first one that is kept if it is not given" },
    limit: { type: "string", value: "N", help: "so many records at most" },
    follow: { type: "boolean", help: "go on with records as they come" },
    json: { type: "boolean", help: "print each record as a line of JSON, as it stands in the log" },
  },
  examples: [
    "ironclaw audit show /run/ironclaw/state/audit --decision deny --since 2027-03-01T00:00:00Z",
    "ironclaw audit show /tmp/ironclaw-dev-x1/vm --scope release-signing --follow",
  ],
  talks: true,
  run: async (input, io) => {
    const chosen = recordFilter(input);
    const json = input.flag("json");
    const from = input.integer("from", 1, Number.MAX_SAFE_INTEGER) ?? 1;
    let left = input.integer("limit", 1, 1_000_000_000) ?? Number.POSITIVE_INFINITY;
    const source = await openAuditSource(input.positional(0));
    if (!json) io.print(HEADING);
    try {
      for await (const { record, line } of input.flag("follow") ? follow(source, from) : source.records(from)) {
        if (record.seq < from || !chosen(record)) continue;
        io.print(json ? printableJson(new TextDecoder().decode(line)) : row(record));
        left -= 1;
        if (left === 0) break;
      }
    } finally {
      source.close();
    }
    return 0;
  },
};

/** For ever. A log that no longer holds what was shown is refused. */
async function* follow(source: AuditSource, from: number): AsyncGenerator<SourceRecord> {
  let shown: AuditHead | null = null;
  for (let next = from; ; await delay(INTERVAL)) {
    const known = knownHead(shown);
    let start: AuditHead | null = null;
    for await (const found of source.records(next)) {
      const { seq, hash, prev } = found.record;
      start ??= { seq: seq - 1, hash: prev };
      expectKnown(known, { seq, hash }, found.where);
      if (seq < next) continue;
      shown = { seq, hash };
      next = seq + 1;
      yield found;
    }
    if (start !== null && shown !== null) expectReached(known, start, shown);
  }
}

const COLUMNS = { seq: 7, time: 24, caller: 11, scope: 20, operation: 10, key: 14, mechanism: 22, decision: 16 };

const HEADING = columns({
  ...{ seq: "seq", time: "time", caller: "uid/pid", scope: "scope", operation: "operation" },
  ...{ key: "key", mechanism: "mechanism", decision: "decision" },
  rest: "reason",
});

/** A text of a record is a workload's own choice in places: nothing of it reaches the terminal but print. */
function row({
  seq,
  time,
  caller,
  scope,
  operation,
  key,
  mechanism,
  decision,
  step,
  reason,
  approvals,
}: AuditRecord): string {
  return columns({
    ...{ seq: `${seq}`, time, caller: caller === null ? "-" : `${caller.uid}/${caller.pid}`, scope, operation },
    ...{ key: key ?? "-", mechanism: mechanism ?? "-", decision: step === null ? decision : `${decision} ${step}` },
    rest: approvals.length === 0 ? reason : `${reason} (approved by ${approvals.join(", ")})`,
  });
}

function columns({ rest, ...texts }: Readonly<Record<keyof typeof COLUMNS | "rest", string>>): string {
  const cells = Object.entries(COLUMNS).map(([name, width]) => {
    const text = texts[name as keyof typeof COLUMNS]; // the keys of a literal
    return printableText(text.replaceAll("\n", " ")).padEnd(width);
  });
  return [...cells, printableText(rest.replaceAll("\n", " "))].join(" ");
}
