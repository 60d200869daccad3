import { fullBucket, type Rate, refill, spend, type TokenBucket } from "../../policy/index.ts";
import type { AuditLog, Durability } from "../audit/log.ts";
import type { AuditEntry } from "../audit/record.ts";

/** Refusals of one source that are recorded one by one. The rest is counted. */
const RATE: Rate = { perMinute: 1, burst: 16 };
/** A count is written at the latest after this time, in milliseconds. */
const PATIENCE = 60_000;
/** Sources that are told apart at once; all others share one count. */
const MAX_SOURCES = 256;

/** One uid at one step of the decision: a flood of one kind hides no refusal of another. */
interface Source {
  bucket: TokenBucket;
  counted: number;
  /** The last refusal that was only counted. */
  last: AuditEntry | null;
}

/**
 * Writes a scope's refusals to the audit log. Whoever can connect can be refused as often as he likes, so a source's
 * records come at a limited rate; those in between are counted, and the count is a record of its own (AUDIT.md).
 * A refusal stays one when it cannot be recorded: nothing is released after it.
 */
export class RefusalLog {
  readonly #audit: AuditLog;
  readonly #durability: Durability;
  readonly #now: () => number;
  readonly #sources = new Map<string, Source>();
  #timer: NodeJS.Timeout | null = null;

  /** @param now milliseconds of a clock that does not go backwards */
  constructor(audit: AuditLog, durability: Durability, now: () => number) {
    this.#audit = audit;
    this.#durability = durability;
    this.#now = now;
  }

  async record(entry: AuditEntry): Promise<void> {
    const source = this.#sourceOf(entry);
    if (source.bucket.tokens < 1) {
      source.counted += 1;
      source.last = entry;
      this.#timer ??= setTimeout(() => void this.flush(), PATIENCE).unref();
      return;
    }
    source.bucket = spend(source.bucket);
    await this.#writeCount(source);
    await this.#append(entry);
  }

  /** One of which there are no more than operations under way: never counted. */
  recordEach(entry: AuditEntry): Promise<void> {
    return this.#append(entry);
  }

  /** Writes every count that is not in the log yet. */
  async flush(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    for (const source of this.#sources.values()) await this.#writeCount(source);
  }

  #sourceOf({ caller, step }: AuditEntry): Source {
    const now = this.#now();
    const name = `${caller?.uid ?? "nobody"} ${step}`;
    if (!this.#sources.has(name) && this.#sources.size >= MAX_SOURCES) this.#forgetQuiet(now);
    const key = this.#sources.has(name) || this.#sources.size < MAX_SOURCES ? name : "others";
    const source = this.#sources.get(key) ?? { bucket: fullBucket(RATE, now), counted: 0, last: null };
    source.bucket = refill(RATE, source.bucket, now);
    this.#sources.set(key, source);
    return source;
  }

  /** A source with a full bucket and nothing to tell is as good as a new one. */
  #forgetQuiet(now: number): void {
    for (const [name, { bucket, counted }] of this.#sources) {
      if (counted === 0 && refill(RATE, bucket, now).tokens >= RATE.burst) this.#sources.delete(name);
    }
  }

  async #writeCount(source: Source): Promise<void> {
    const { counted, last } = source;
    if (last === null) return;
    source.counted = 0;
    source.last = null;
    const reason = `${counted} more refusals like this one: ${last.reason}`;
    await this.#append({ ...last, reason });
  }

  async #append(entry: AuditEntry): Promise<void> {
    try {
      await this.#audit.append(entry, this.#durability);
    } catch {
      // the log has stopped; every later append fails too, and the next signature with it
    }
  }
}
