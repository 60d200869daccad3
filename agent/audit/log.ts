import { hash } from "node:crypto";
import { closeSync, fdatasyncSync } from "node:fs";
import { type Reason, reason } from "../../attest/index.ts";
import { AgentError } from "../errors.ts";
import type { AuditFiles, Space } from "./files.ts";
import { type AuditLimits, lowWater, reserve } from "./limits.ts";
import type { LogPositions } from "./positions.ts";
import {
  type AuditEntry,
  type AuditHead,
  type AuditRecord,
  MAX_LINE,
  type WrittenRecord,
  writeRecord,
} from "./record.ts";
import { type Segment, segmentAt } from "./segment.ts";

const GROUP_MILLISECONDS = 50;
/** Records of one write, at most. */
const GROUP_RECORDS = 64;

/** `written`: in the kernel. `durable`: on the disk, as far as `fdatasync` says. */
export type Durability = "written" | "durable";

export interface AuditLog {
  /**
   * Appends one record and resolves when it has the asked durability. The next step of the operation waits for it.
   * @throws AgentError `ERR_AUDIT_WRITE`; after a failed write every append fails, so nothing is signed any more
   */
  append(entry: AuditEntry, durability: Durability): Promise<AuditHead>;
  /** The last record. */
  head(): AuditHead;
  /** The last record that is on the disk: what may be remembered elsewhere. `head` can be ahead of it, and a power cut takes that. */
  durableHead(): AuditHead;
  /** Milliseconds since 1970: the greatest time of its records, those of earlier boots included; 0 for none. */
  latest(): number;
  close(): void;
}

/** What an opened log begins with. */
export interface OpenedLog {
  readonly directory: string;
  /** Of the last segment, for appending. Belongs to the log. */
  readonly fd: number;
  readonly head: AuditHead;
  /** Of the last segment. */
  readonly bytes: number;
  readonly positions: LogPositions;
  /** Bytes of an interrupted last write that were replaced by a record; 0 when the log ended with a whole record. */
  readonly repairedBytes: number;
  /** Milliseconds since 1970, for the records' `time`. */
  readonly now: () => number;
  readonly files: AuditFiles;
  readonly limits: AuditLimits;
}

/** A record that somebody waits for. */
interface Waiting {
  readonly entry: AuditEntry;
  readonly durability: Durability;
  readonly resolve: (head: AuditHead) => void;
  readonly reject: (error: unknown) => void;
}

/** `rotate`: the first record of a segment. */
export function rotation(last: AuditHead): AuditEntry {
  return logEntry("rotate", `goes on after record ${last.seq}`);
}

/** A record of the log about itself: nobody called. */
export function logEntry(operation: AuditEntry["operation"], reasonText: string): AuditEntry {
  return {
    ...{ caller: null, scope: "audit", key: null, mechanism: null, operation, inputDigest: null },
    ...{ decision: "allow", step: null, reason: reasonText, approvals: [] },
  };
}

/** `sha256:<hex>` of the bytes that go to the token. */
export function inputDigest(bytes: Uint8Array): string {
  return `sha256:${hash("sha256", bytes, "hex")}`;
}

/** A log in a directory, opened for appending: `openAudit` makes it. */
export class FileAuditLog implements AuditLog {
  readonly repairedBytes: number;
  readonly directory: string;
  readonly #opened: OpenedLog;
  #fd: number;
  #bytes: number;
  #head: AuditHead;
  #durable: AuditHead;
  #space: Space;
  #waiting: Waiting[] = [];
  #entries = 0;
  #failure: AgentError | null = null;
  #group: NodeJS.Timeout | null = null;
  #flushes = 0;
  #retired: number[] = [];
  #open = true;

  constructor(opened: OpenedLog) {
    this.#opened = opened;
    this.directory = opened.directory;
    this.repairedBytes = opened.repairedBytes;
    this.#fd = opened.fd;
    this.#bytes = opened.bytes;
    this.#head = opened.head;
    this.#durable = opened.head;
    this.#space = opened.files.space(opened.directory);
  }

  head(): AuditHead {
    return this.#head;
  }
  durableHead(): AuditHead {
    return this.#durable;
  }
  latest(): number {
    return this.#opened.positions.latest;
  }
  /** Records since the log was opened that are not of the log about itself. */
  get entries(): number {
    return this.#entries;
  }
  get open(): boolean {
    return this.#open;
  }
  get segments(): readonly Segment[] {
    return this.#opened.positions.segments;
  }
  get limits(): AuditLimits {
    return this.#opened.limits;
  }

  /** What is appended in one turn of the event loop goes out in one write: a system call costs more than a record does. */
  append(entry: AuditEntry, durability: Durability): Promise<AuditHead> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ entry, durability, resolve, reject });
      if (this.#waiting.length === 1) setImmediate(() => this.#writeWaiting());
      if (this.#waiting.length === GROUP_RECORDS) this.#writeWaiting();
    });
  }

  /** Appends records that stand in one segment, one right after the other. @throws as `append` */
  async appendAll(entries: readonly AuditEntry[], durability: Durability): Promise<AuditHead> {
    this.rotateIfFull();
    for (const entry of entries) {
      this.#refuse(entry);
      this.#stopping(() => this.#write([entry]));
    }
    const head = this.#head;
    if (durability === "durable") await this.flush();
    else this.#syncSoon();
    return head;
  }

  #writeWaiting(): void {
    let group: Waiting[] = [];
    let bytes = this.#bytes;
    for (const waiting of this.#waiting.splice(0)) {
      if (bytes >= this.limits.segmentBytes) {
        this.#writeGroup(group);
        group = [];
      }
      try {
        if (group.length === 0) this.rotateIfFull();
        this.#refuse(waiting.entry, group.length * MAX_LINE);
        bytes = (group.length === 0 ? this.#bytes : bytes) + MAX_LINE;
        group.push(waiting);
      } catch (error) {
        waiting.reject(error);
      }
    }
    this.#writeGroup(group);
  }

  #writeGroup(group: readonly Waiting[]): void {
    if (group.length === 0) return;
    try {
      const heads = this.#stopping(() => this.#write(group.map(({ entry }) => entry)));
      const durable = group.some(({ durability }) => durability === "durable") ? this.flush() : null;
      if (durable === null) this.#syncSoon();
      for (const [index, { durability, resolve, reject }] of group.entries()) {
        const head = heads[index] as AuditHead; // as many as records
        if (durability === "durable") void durable?.then(() => resolve(head), reject);
        else resolve(head);
      }
    } catch (error) {
      for (const { reject } of group) reject(error);
    }
  }

  /** Begins another segment when the last one has its size. @throws as `append` */
  rotateIfFull(): void {
    if (this.#bytes < this.limits.segmentBytes || this.#failure !== null || !this.#open) return;
    try {
      this.#rotate();
    } catch (cause) {
      if (isShortage(cause)) throw new AgentError("ERR_AUDIT_WRITE", "audit log: no descriptor left", { cause });
      throw this.#stop(cause);
    }
  }

  /**
   * A new segment, on the disk. Where the process or the machine has no descriptor left nothing has changed: the record is refused, and the
   * log goes on once there is one.
   */
  #create(path: string): number {
    const { files } = this.#opened;
    const fd = files.create(path);
    try {
      files.syncDirectory(this.directory);
      return fd;
    } catch (cause) {
      closeSync(fd);
      if (isShortage(cause)) files.remove(path);
      throw cause;
    }
  }

  /** What was written before it began is on the disk when it has ended. @throws AgentError ERR_AUDIT_WRITE */
  async flush(): Promise<void> {
    const head = this.#head;
    this.#flushes += 1;
    try {
      await this.#opened.files.sync(this.#fd);
      if (head.seq > this.#durable.seq) this.#durable = head;
    } catch (cause) {
      throw this.#stop(cause);
    } finally {
      this.#flushes -= 1;
      this.#closeRetired();
    }
  }

  /** The records `from` and following, at most `limit`, without reading the rest of the log. @throws AgentError */
  read(from: number, limit: number): readonly AuditRecord[] {
    return this.#opened.positions.read(from, limit, this.#head);
  }

  /** Segments that may go: so many that enough stay, and none with a younger record than is kept. */
  get deletable(): readonly Segment[] {
    const { positions, now, limits } = this.#opened;
    const surplus = Math.max(0, this.segments.length - limits.segments);
    return positions.olderThan(now() - limits.milliseconds).slice(0, surplus);
  }
  /** Deletes the oldest segment. What says so has to be on the disk, behind a checkpoint. @throws AgentError ERR_AUDIT_WRITE */
  deleteOldest(): void {
    const [oldest, ...others] = this.segments;
    if (oldest === undefined || others.length === 0)
      throw new TypeError("audit log: the last segment is never deleted");
    const { files, positions } = this.#opened;
    this.#stopping(() => files.remove(oldest.path));
    positions.dropOldest();
    try {
      files.syncDirectory(this.directory);
    } catch (cause) {
      // Until the directory is synced again a crash brings the segment back: more than was said, never less.
      if (!isShortage(cause)) throw this.#stop(cause);
    }
  }

  get failed(): boolean {
    return this.#failure !== null;
  }

  /** Asks the filesystem anew how much room there is. */
  measure(): void {
    if (this.#open) this.#space = this.#opened.files.space(this.directory);
  }
  /** What an operator should know of the log; `audit-space-low` comes before signing stops. */
  get warnings(): readonly Reason[] {
    if (this.#failure !== null)
      return [reason("audit-stopped", "audit log", "records that can be written", causeOf(this.#failure))];
    const { free } = this.#space;
    const low = lowWater(this.#space);
    if (free >= low) return [];
    const code = this.#full ? "audit-full" : "audit-space-low";
    return [reason(code, "audit log", `${low} bytes of room`, `${Math.max(0, free)} bytes`)];
  }

  close(): void {
    if (!this.#open) return;
    this.#writeWaiting();
    this.#open = false;
    if (this.#group !== null) clearTimeout(this.#group);
    try {
      fdatasyncSync(this.#fd);
    } finally {
      this.#retired.push(this.#fd);
      this.#closeRetired();
    }
  }

  get #full(): boolean {
    return this.#space.free < reserve(this.#space);
  }

  /** @param waiting bytes of records before it that are not yet written */
  #refuse(entry: AuditEntry, waiting = 0): void {
    if (!this.#open) throw new AgentError("ERR_AUDIT_WRITE", "audit log: closed");
    if (this.#failure !== null) throw this.#failure;
    if (this.#space.free - waiting >= reserve(this.#space) || isStatement(entry)) return;
    throw new AgentError("ERR_AUDIT_WRITE", "audit log: no room", {
      expected: `${reserve(this.#space)} bytes`,
      got: `${Math.max(0, this.#space.free)}`,
      hint: "read the log out and make room behind it; signing goes on once there is some",
    });
  }

  /** Everything before is on the disk before the next segment exists, so a missing end is always the end of the last one. */
  #rotate(): void {
    const { files, positions } = this.#opened;
    files.syncNow(this.#fd);
    this.#durable = this.#head;
    const segment = segmentAt(this.directory, this.#head.seq + 1);
    const fd = this.#create(segment.path);
    this.#retired.push(this.#fd);
    this.#fd = fd;
    this.#bytes = 0;
    this.#closeRetired();
    positions.begin(segment);
    this.#write([rotation(this.#head)]);
  }

  #write(entries: readonly AuditEntry[]): readonly AuditHead[] {
    const { files, positions, now } = this.#opened;
    const at = now();
    const time = new Date(at).toISOString();
    const records: WrittenRecord[] = [];
    let text = "";
    for (const entry of entries) {
      const record = writeRecord(entry, records.at(-1)?.head ?? this.#head, time);
      records.push(record);
      text += record.text;
    }
    const lines = Buffer.from(text);
    const written = files.write(this.#fd, lines);
    if (written !== lines.length) throw new Error(`${written} of ${lines.length} bytes were written`);
    for (const { length, head } of records) {
      positions.note(this.#head, this.#bytes, at);
      this.#bytes += length;
      this.#head = head;
    }
    this.#space = { free: this.#space.free - lines.length, total: this.#space.total };
    for (const entry of entries) if (!isStatement(entry) && entry.operation !== "rotate") this.#entries += 1;
    return records.map(({ head }) => head);
  }

  /** One `fdatasync` for all records of the next moment; its failure stops signing like that of a write. */
  #syncSoon(): void {
    if (this.#group !== null) return;
    this.#group = setTimeout(() => {
      this.#group = null;
      if (this.#open) this.flush().catch(() => undefined); // it has stopped the log
    }, GROUP_MILLISECONDS).unref();
  }

  #stopping<T>(act: () => T): T {
    try {
      return act();
    } catch (cause) {
      throw this.#stop(cause);
    }
  }

  #stop(cause: unknown): AgentError {
    if (!this.#open) return new AgentError("ERR_AUDIT_WRITE", "audit log: closed", { cause });
    this.#failure ??= new AgentError("ERR_AUDIT_WRITE", "audit log: a record could not be written, signing stops", {
      hint: "free or repair the disk behind the audit log, then start the agent again",
      cause,
    });
    return this.#failure;
  }

  /** A descriptor that a worker thread still syncs must not become another file's. */
  #closeRetired(): void {
    if (this.#flushes > 0) return;
    for (const fd of this.#retired.splice(0)) closeSync(fd);
  }
}

/** Only what opens a file fails so. */
function isShortage(cause: unknown): boolean {
  return cause instanceof Error && "code" in cause && (cause.code === "EMFILE" || cause.code === "ENFILE");
}

function isStatement({ statement }: AuditEntry): boolean {
  return statement !== undefined && statement !== null;
}

function causeOf({ cause }: AgentError): string {
  if (cause instanceof Error && "code" in cause) return String(cause.code);
  return cause instanceof Error ? cause.message : "a failure";
}
