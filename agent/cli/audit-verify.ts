import { statSync } from "node:fs";
import { parseClaims, parseEnrolment, parseEvidence } from "../../attest/index.ts";
import { fromBase64, toHex } from "../../policy/index.ts";
import { type CheckpointFindings, CheckpointTrust } from "../audit/checkpoint.ts";
import { type AuditHead, EMPTY_HEAD } from "../audit/record.ts";
import { expectKnown, expectReached, type KnownRecords, knownHead, LogStart, tornEnd } from "../audit/verify.ts";
import { type AuditSource, openAuditSource } from "./audit-source.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "check an audit log's chain and checkpoints, and that it extends an earlier report, copy or head",
  positionals: ["LOG"],
  options: {
    against: {
      ...{ type: "string", value: "EARLIER" },
      help: "a report, an export or another copy of the log: all its records must be in LOG",
    },
    head: { type: "string", value: "SEQ:HASH", help: "the audit head of a verified report: the log must reach it" },
    enrolment: {
      ...{ type: "string", value: "FILE" },
      help: "the machine's enrolment: its attestation key must have certified every checkpoint key",
    },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw audit verify /run/ironclaw/state/audit --enrolment vm-1.json",
    "ironclaw audit verify audit.jsonl --against report.cbor --json",
    "ironclaw audit verify audit.jsonl --head 42:9f3c...",
  ],
  run: async (input, io) => {
    io.phase("reading and checking the records");
    const known = await knownRecords(input);
    const enrolment = input.optional("enrolment");
    const ak = enrolment === undefined ? null : await readAk(enrolment);
    const verified = await verifySource(input.positional(0), known, ak);
    const { head, first, checkpoints } = verified;
    const facts = { ok: true, first, seq: head.seq, hash: head.seq === 0 ? null : head.hash, checkpoints };
    answer(input, io, facts, sentence(verified));
    return 0;
  },
};

interface VerifiedSource {
  readonly first: number;
  readonly head: AuditHead;
  readonly checkpoints: CheckpointFindings;
}

/** What a log is, wherever it is read from. @throws AgentError ERR_AUDIT_MALFORMED, ERR_AUDIT_ROLLED_BACK, ERR_ENVIRONMENT */
async function verifySource(path: string, known: KnownRecords, ak: Uint8Array | null): Promise<VerifiedSource> {
  const source = await openAuditSource(path);
  try {
    const beginning = new LogStart();
    const trust = new CheckpointTrust(ak);
    let [start, head]: (AuditHead | null)[] = [null, null];
    for await (const { record, where } of source.records(1)) {
      start ??= { seq: record.seq - 1, hash: record.prev };
      head = { seq: record.seq, hash: record.hash };
      expectKnown(known, head, where);
      beginning.add(record);
      await trust.add(record, where);
    }
    const [from, to] = [start ?? EMPTY_HEAD, head ?? EMPTY_HEAD];
    checkEnds(source, beginning, from, to);
    expectReached(known, from, to);
    return { first: from.seq + 1, head: to, checkpoints: trust.findings };
  } finally {
    source.close();
  }
}

function checkEnds(source: AuditSource, beginning: LogStart, start: AuditHead, head: AuditHead): void {
  // An export can begin anywhere; what it begins with is said.
  if (source.kind !== "export") beginning.check(start.seq + 1);
  if (source.torn() > 0) throw tornEnd(head, source.torn());
}

async function readAk(path: string): Promise<Uint8Array> {
  return fromBase64(parseEnrolment(await readInput(path, "enrolment")).akPublic, "akPublic");
}

async function knownRecords(input: CommandInput): Promise<KnownRecords> {
  const head = knownHead(parseHead(input));
  const against = input.optional("against");
  return against === undefined ? head : new Map([...(await readEarlier(against)), ...head]);
}

/** A report is the head of a CBOR map; everything else is records. Whether a report is genuine is for `ironclaw verify` to say. */
async function readEarlier(path: string): Promise<KnownRecords> {
  if (isFile(path)) {
    const bytes = await readInput(path, "earlier report or log");
    if ((bytes[0] ?? 0) >= 0x80) {
      const { seq, hash } = parseClaims(parseEvidence(bytes).claims).asserted.audit;
      return knownHead({ seq, hash: toHex(hash) });
    }
  }
  const source = await openAuditSource(path);
  try {
    const known = new Map<number, string>();
    for await (const { record } of source.records(1)) known.set(record.seq, record.hash);
    return known;
  } finally {
    source.close();
  }
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}

function parseHead(input: CommandInput): AuditHead | null {
  const text = input.optional("head");
  if (text === undefined) return null;
  const parts = /^([1-9][0-9]{0,14}):([0-9a-f]{64})$/.exec(text);
  if (parts?.[1] === undefined || parts[2] === undefined)
    throw new UsageError("--head", { expected: "a record's number, a colon and 64 hexadecimal digits", got: text });
  return { seq: Number(parts[1]), hash: parts[2] };
}

function sentence({ first, head: { seq, hash }, checkpoints }: VerifiedSource): string {
  if (seq === 0) return "0 records, an empty log";
  const from = first === 1 ? "" : `; verified from record ${first} on, older ones are not here`;
  return [`${seq - first + 1} records, head ${seq}:${hash}${from}`, checkpointsSentence(checkpoints)].join("\n");
}

function checkpointsSentence({ count, covers, certified }: CheckpointFindings): string {
  if (count === 0) return "no checkpoints: nothing says which machine wrote it";
  const signed = `${count} checkpoints, records up to ${covers} are signed`;
  return certified === null
    ? `${signed} by keys that nobody vouched for: give --enrolment`
    : `${signed} by keys that the machine's attestation key certified`;
}
