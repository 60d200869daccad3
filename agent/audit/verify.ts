import { AgentError } from "../errors.ts";
import type { AuditHead, AuditRecord } from "./record.ts";
import { LogWalk, type WalkedRecord } from "./walk.ts";

/** Records that a log has to hold, by their numbers: their hashes. Kept elsewhere: in the TPM, a report, an earlier copy. */
export type KnownRecords = ReadonlyMap<number, string>;

export function knownHead(head: AuditHead | null): KnownRecords {
  return head === null || head.seq === 0 ? new Map() : new Map([[head.seq, head.hash]]);
}

/** What a verified log is. */
export interface VerifiedLog {
  /** Number of the oldest record that is kept; 1 unless older ones were deleted. */
  readonly first: number;
  readonly head: AuditHead;
  /** Bytes after the last whole line. */
  readonly torn: number;
}

/** Judges where a log may begin: with record 1, or where a later record says that older ones are deleted, behind a checkpoint. */
export class LogStart {
  #retained = 0;
  #announced: { readonly seq: number; readonly first: number } | null = null;

  add({ seq, statement }: AuditRecord): void {
    if (statement?.kind === "retention") this.#announced = { seq, first: statement.first };
    if (statement?.kind === "checkpoint" && this.#announced !== null && statement.seq >= this.#announced.seq)
      this.#retained = this.#announced.first;
  }
  /** Older records than this one may be missing; 0 when none may. */
  get retained(): number {
    return this.#retained;
  }
  /** @throws AgentError ERR_AUDIT_MALFORMED */
  check(first: number): void {
    if (first <= 1 || first <= this.#retained) return;
    throw new AgentError("ERR_AUDIT_MALFORMED", `audit log before record ${first}`, {
      expected: "all records, or a checkpoint behind a record that says that they are deleted",
      got: "neither",
      hint: `records ${Math.max(1, this.#retained)} to ${first - 1} are missing`,
    });
  }
}

/**
 * Verifies a whole log, record by record. Reads it in pieces, whatever its size.
 * Does not establish who wrote it: see `CheckpointTrust`.
 * @param known what the log has to hold
 * @throws AgentError `ERR_AUDIT_MALFORMED` naming segment and record; `ERR_AUDIT_ROLLED_BACK` when it lacks a known record or has
 *   another in its place; `ERR_ENVIRONMENT`
 */
export function verifyLog(
  walk: LogWalk,
  known: KnownRecords,
  onRecord: (walked: WalkedRecord) => void = () => undefined,
): VerifiedLog {
  const start = new LogStart();
  for (const walked of walk.records()) {
    const { record, segment } = walked;
    start.add(record);
    expectKnown(known, { seq: record.seq, hash: record.hash }, ` in ${segment.name}`);
    onRecord(walked);
  }
  const first = walk.start.seq + 1;
  start.check(first);
  expectReached(known, walk.start, walk.head);
  return { first, head: walk.head, torn: walk.torn };
}

/** @throws AgentError ERR_AUDIT_ROLLED_BACK for another record in a known one's place */
export function expectKnown(known: KnownRecords, { seq, hash }: AuditHead, where: string): void {
  const expected = known.get(seq);
  if (expected === undefined || expected === hash) return;
  throw new AgentError("ERR_AUDIT_ROLLED_BACK", `audit record ${seq}${where} hash`, {
    expected,
    got: hash,
    hint: "the log was rewritten from this record on, or from an earlier one",
  });
}

/** @throws AgentError ERR_AUDIT_ROLLED_BACK unless the last known record is between the two heads */
export function expectReached(known: KnownRecords, start: AuditHead, head: AuditHead): void {
  const last = [...known.keys()].reduce((most, seq) => Math.max(most, seq), 0);
  if (last > head.seq) {
    throw new AgentError("ERR_AUDIT_ROLLED_BACK", "audit log: anchored record", {
      expected: `record ${last} with the anchored hash`,
      got: `a log that ends with record ${head.seq}`,
      hint: "the log was shortened, exchanged or rolled back",
    });
  }
  if (last === start.seq) expectKnown(known, start, "");
  if (last === 0 || last >= start.seq) return;
  throw new AgentError("ERR_AUDIT_ROLLED_BACK", "audit log: anchored record", {
    expected: `record ${last} with the anchored hash`,
    got: `a log that begins with record ${start.seq + 1}`,
    hint: "older records were deleted: compare with a later report, or with a copy of the log",
  });
}

/**
 * Verifies the log in a directory and returns what it is.
 * @throws AgentError as `verifyLog`, and `ERR_AUDIT_MALFORMED` when bytes follow the last record
 */
export function verifyAudit(
  directory: string,
  known: KnownRecords,
  onRecord?: (walked: WalkedRecord) => void,
): VerifiedLog {
  const verified = verifyLog(new LogWalk(directory), known, onRecord);
  if (verified.torn === 0) return verified;
  throw tornEnd(verified.head, verified.torn);
}

/** What a crash while a record was written leaves. */
export function tornEnd({ seq }: AuditHead, bytes: number): AgentError {
  return new AgentError("ERR_AUDIT_MALFORMED", `audit log after record ${seq}`, {
    expected: "a whole record or the end",
    got: `${bytes} bytes of a part of one`,
    hint: "a crash while a record was written leaves this; the agent repairs it when it opens the log again",
  });
}

/** The records `from` and following, at most `limit`, verified as a chain from the first record of `from`'s segment on. */
export function readAudit(directory: string, from: number, limit: number): readonly AuditRecord[] {
  const found: AuditRecord[] = [];
  for (const { record } of new LogWalk(directory, from).records()) {
    if (record.seq >= from) found.push(record);
    if (found.length >= limit) break;
  }
  return found;
}
