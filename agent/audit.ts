import { createHash } from "node:crypto";
import {
  closeSync,
  constants,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  writeSync,
} from "node:fs";
import { promisify } from "node:util";
import {
  type AuditEntry,
  type AuditHead,
  type AuditRecord,
  EMPTY_HEAD,
  encodeRecord,
  MAX_LINE,
  verifyLine,
} from "./audit-record.ts";
import { AgentError } from "./errors.ts";

const syncData = promisify(fdatasync);
const CHUNK = 65_536;
const LINE_FEED = 10;
const GROUP_MILLISECONDS = 50;

/** `written`: in the kernel. `durable`: on the disk, as far as `fdatasync` says. */
export type Durability = "written" | "durable";

export interface AuditLog {
  /**
   * Appends one record and resolves when it has the asked durability. The next step of the operation waits for it.
   * @throws AgentError `ERR_AUDIT_WRITE`; from then on every append fails, so nothing is signed any more
   */
  append(entry: AuditEntry, durability: Durability): Promise<AuditHead>;
  /** The last record. */
  head(): AuditHead;
  /** The last record that is on the disk: what may be remembered elsewhere. `head` can be ahead of it, and a power cut takes that. */
  durableHead(): AuditHead;
  close(): void;
}

export interface OpenAuditLog extends AuditLog {
  /** Bytes of an interrupted last write that were cut off; 0 when the log ended with a whole record. */
  readonly repairedBytes: number;
}

export interface AuditOptions {
  readonly path: string;
  /** Milliseconds since 1970, for the records' `time`. */
  readonly now: () => number;
  /** A head of this log that was kept elsewhere; null when there is none, and then a log that ends early is not noticed. */
  readonly anchor: AuditHead | null;
  /** The write system call. Returns the number of bytes written. */
  readonly write?: (fd: number, bytes: Uint8Array) => number;
  /** The fdatasync system call. */
  readonly sync?: (fd: number) => Promise<void>;
}

/**
 * Verifies the log and opens it for appending; creates it when it is missing (mode 0600). Reads the whole file.
 * Does not establish who wrote the records; see AUDIT.md.
 * @throws AgentError `ERR_AUDIT_MALFORMED` for an edited or reordered log, `ERR_AUDIT_ROLLED_BACK` for one that lacks the anchored
 *   record, `ERR_ENVIRONMENT` when it cannot be opened
 */
export function openAudit(options: AuditOptions): OpenAuditLog {
  const fd = openLog(options.path, constants.O_RDWR | constants.O_CREAT | constants.O_APPEND);
  try {
    const { head, torn, end } = verifyLog(fd, options.anchor);
    if (torn > 0) ftruncateSync(fd, end);
    fdatasyncSync(fd);
    return new FileAuditLog(fd, head, torn, options);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** The records `from` (a sequence number) and following, at most `limit`, verified as a chain from the first record on. */
export function readAudit(path: string, from: number, limit: number): readonly AuditRecord[] {
  const fd = openLog(path, constants.O_RDONLY);
  try {
    const found: AuditRecord[] = [];
    verifyLog(fd, null, (record) => {
      if (record.seq >= from && found.length < limit) found.push(record);
    });
    return found;
  } finally {
    closeSync(fd);
  }
}

/**
 * Verifies a whole log and returns its head. Reads it in pieces, whatever its size.
 * @param anchor a head of this log that was kept elsewhere, e.g. in a report: the log has to reach it
 * @throws AgentError `ERR_AUDIT_MALFORMED`, also when bytes follow the last record; `ERR_AUDIT_ROLLED_BACK`; `ERR_ENVIRONMENT`
 */
export function verifyAudit(path: string, anchor: AuditHead | null): AuditHead {
  const fd = openLog(path, constants.O_RDONLY);
  try {
    const { head, torn } = verifyLog(fd, anchor);
    if (torn === 0) return head;
    throw new AgentError("ERR_AUDIT_MALFORMED", `audit log after record ${head.seq}`, {
      expected: "a whole record or the end",
      got: `${torn} bytes of a part of one`,
      hint: "a crash while a record was written leaves this; the agent cuts it off when it opens the log again",
    });
  } finally {
    closeSync(fd);
  }
}

/** `sha256:<hex>` of the bytes that go to the token. */
export function inputDigest(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

class FileAuditLog implements OpenAuditLog {
  readonly repairedBytes: number;
  readonly #fd: number;
  readonly #now: () => number;
  readonly #write: (fd: number, bytes: Uint8Array) => number;
  readonly #sync: (fd: number) => Promise<void>;
  #head: AuditHead;
  #durable: AuditHead;
  #failure: AgentError | null = null;
  #group: NodeJS.Timeout | null = null;
  #open = true;

  constructor(fd: number, head: AuditHead, repaired: number, { now, write, sync }: AuditOptions) {
    this.#fd = fd;
    this.#head = head;
    this.#durable = head;
    this.repairedBytes = repaired;
    this.#now = now;
    this.#write = write ?? ((target, bytes) => writeSync(target, bytes));
    this.#sync = sync ?? syncData;
  }

  head(): AuditHead {
    return this.#head;
  }

  durableHead(): AuditHead {
    return this.#durable;
  }

  async append(entry: AuditEntry, durability: Durability): Promise<AuditHead> {
    if (!this.#open) throw new AgentError("ERR_AUDIT_WRITE", "audit log: closed");
    if (this.#failure !== null) throw this.#failure;
    const { line, head } = encodeRecord(entry, this.#head, new Date(this.#now()).toISOString());
    try {
      const written = this.#write(this.#fd, line);
      if (written !== line.length) throw new Error(`${written} of ${line.length} bytes were written`);
      this.#head = head;
      if (durability === "durable") await this.#flush();
      else this.#syncSoon();
    } catch (cause) {
      throw this.#stop(cause);
    }
    return head;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    if (this.#group !== null) clearTimeout(this.#group);
    try {
      fdatasyncSync(this.#fd);
    } finally {
      closeSync(this.#fd);
    }
  }

  /** One `fdatasync` for all records of the next moment; its failure stops signing like that of a write. */
  #syncSoon(): void {
    if (this.#group !== null) return;
    this.#group = setTimeout(() => {
      this.#group = null;
      this.#flush().catch((error) => {
        if (this.#open) this.#stop(error);
      });
    }, GROUP_MILLISECONDS).unref();
  }

  /** What was written before it began is on the disk when it has ended. */
  async #flush(): Promise<void> {
    const head = this.#head;
    await this.#sync(this.#fd);
    if (head.seq > this.#durable.seq) this.#durable = head;
  }

  #stop(cause: unknown): AgentError {
    this.#failure ??= new AgentError("ERR_AUDIT_WRITE", "audit log: a record could not be written, signing stops", {
      hint: "free or repair the disk behind the audit log, then start the agent again",
      cause,
    });
    return this.#failure;
  }
}

interface VerifiedLog {
  readonly head: AuditHead;
  /** Bytes after the last whole line. */
  readonly torn: number;
  /** Offset behind the last whole line. */
  readonly end: number;
}

function verifyLog(
  fd: number,
  anchor: AuditHead | null,
  onRecord: (record: AuditRecord) => void = () => {},
): VerifiedLog {
  let head = EMPTY_HEAD;
  let end = 0;
  let anchored = anchor === null || sameHead(anchor, EMPTY_HEAD);
  for (const line of readLines(fd)) {
    const record = verifyLine(line, head);
    head = { seq: record.seq, hash: record.hash };
    end += line.length + 1;
    if (anchor !== null && sameHead(anchor, head)) anchored = true;
    onRecord(record);
  }
  if (!anchored) {
    throw new AgentError("ERR_AUDIT_ROLLED_BACK", "audit log: anchored record", {
      expected: `record ${anchor?.seq} with the anchored hash`,
      got: `a log that ends with record ${head.seq}`,
      hint: "the log was shortened, exchanged or rolled back",
    });
  }
  return { head, torn: fstatSync(fd).size - end, end };
}

/** Whole lines, without their LF. Bytes after the last LF are left out. */
function* readLines(fd: number): Generator<Uint8Array> {
  let rest = Buffer.alloc(0);
  const chunk = Buffer.alloc(CHUNK);
  for (let position = 0; ; ) {
    const length = readSync(fd, chunk, 0, CHUNK, position);
    if (length === 0) return;
    position += length;
    rest = Buffer.concat([rest, chunk.subarray(0, length)]);
    let start = 0;
    for (let at = rest.indexOf(LINE_FEED, start); at !== -1; at = rest.indexOf(LINE_FEED, start)) {
      yield Uint8Array.from(rest.subarray(start, at));
      start = at + 1;
    }
    rest = rest.subarray(start);
    if (rest.length > MAX_LINE) {
      throw new AgentError("ERR_AUDIT_MALFORMED", "audit log: line", {
        expected: `at most ${MAX_LINE} bytes`,
        got: "a longer one",
      });
    }
  }
}

function openLog(path: string, flags: number): number {
  const unusable = (got: string, cause?: unknown) =>
    new AgentError("ERR_ENVIRONMENT", `audit log ${path}`, { expected: "a regular file", got, cause });
  let fd: number;
  try {
    // A pipe would block the open, a link could lead elsewhere.
    fd = openSync(path, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK, 0o600);
  } catch (cause) {
    throw unusable(cause instanceof Error && "code" in cause ? String(cause.code) : "a failure", cause);
  }
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw unusable("something else");
}

function sameHead(a: AuditHead, b: AuditHead): boolean {
  return a.seq === b.seq && a.hash === b.hash;
}
