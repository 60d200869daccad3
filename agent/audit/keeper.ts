import type { CertifiedKey } from "../../seal/index.ts";
import { failureOf, journal } from "../journal.ts";
import { certificateEntry, checkpointEntry } from "./checkpoint.ts";
import { type FileAuditLog, logEntry } from "./log.ts";
import type { AuditHead } from "./record.ts";

/** How far the log may run ahead of its checkpoint and of the TPM: by time, and by records. */
const MILLISECONDS = 10_000;
const RECORDS = 10_000;
/** How often it is looked at. */
const TICK = 500;

export interface KeeperParts {
  readonly log: FileAuditLog;
  /** Keeps a head that is on the disk in the TPM; null where there is no place for it. */
  readonly anchor: ((head: AuditHead) => Promise<void>) | null;
  /** Null while there is none: then nothing is signed, and nothing is deleted. */
  readonly key: () => CertifiedKey | null;
}

/**
 * What is done beside the appending, and never in its way: checkpoints, the anchor in the TPM, the deletion of old segments, and a look
 * at the room that is left. What fails is said on the console and tried again.
 */
export class AuditKeeper {
  readonly #parts: KeeperParts;
  #timer: NodeJS.Timeout | null = null;
  /** `entries` of the log when it was last settled. */
  #settled = 0;
  #due: number | null = null;
  #settling: Promise<void> | null = null;
  /** First record of the segment that has the key's certificate. */
  #certifiedIn = 0;

  constructor(parts: KeeperParts) {
    this.#parts = parts;
  }

  start(): void {
    this.#timer = setInterval(() => void this.#tick(), TICK).unref();
  }
  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  /** Signs and anchors what the log has now: at a clean stop. */
  async settle(): Promise<void> {
    await this.#settling;
    await this.#run();
  }

  async #tick(): Promise<void> {
    const { log } = this.#parts;
    if (this.#settling !== null || !log.open) return;
    log.measure();
    const ahead = log.entries - this.#settled;
    if (ahead === 0) return;
    this.#due ??= performance.now() + MILLISECONDS - TICK;
    if (performance.now() < this.#due && ahead < RECORDS) return;
    await this.#run();
  }

  #run(): Promise<void> {
    this.#due = null;
    this.#settling ??= this.#settle()
      .catch((error: unknown) => {
        journal.error(`audit log: ${failureOf(error)}`);
      })
      .finally(() => {
        this.#settling = null;
      });
    return this.#settling;
  }

  async #settle(): Promise<void> {
    const { log } = this.#parts;
    const { entries } = log;
    if (entries === this.#settled || !log.open) return;
    // Only what is on the disk: after a power cut a checkpoint or an anchor ahead of the log would look like a log that was cut.
    await log.flush();
    const signed = await this.#checkpoint();
    await this.#anchor();
    this.#settled = entries;
    if (signed) await this.#retire();
  }

  /** @returns whether there is a key to sign with, and it did */
  async #checkpoint(): Promise<boolean> {
    const { log, key } = this.#parts;
    const signer = key();
    if (signer === null) return false;
    const checkpoint = await checkpointEntry(signer, log.durableHead());
    if (!log.open) return false;
    // A certificate and its checkpoint are in one segment: each can be verified once the ones before it are deleted.
    log.rotateIfFull();
    const certified = this.#certifiedIn === this.#segment;
    this.#certifiedIn = this.#segment;
    await log.appendAll(certified ? [checkpoint] : [certificateEntry(signer), checkpoint], "durable");
    return true;
  }

  get #segment(): number {
    return this.#parts.log.segments.at(-1)?.first ?? 0;
  }

  async #anchor(): Promise<void> {
    const { log, anchor } = this.#parts;
    if (anchor !== null) await anchor(log.durableHead());
  }

  /**
   * Deletes segments that are old enough: first it is written that they are, then that is signed and anchored, then they go, the oldest
   * first. A crash in between leaves more than was said, never less.
   */
  async #retire(): Promise<void> {
    const { log } = this.#parts;
    const { deletable, segments } = log;
    const first = segments[deletable.length]?.first;
    if (deletable.length === 0 || first === undefined) return;
    const said = `records before ${first} are deleted`;
    await log.append({ ...logEntry("retention", said), statement: { kind: "retention", first } }, "durable");
    if (!(await this.#checkpoint())) return;
    await this.#anchor();
    for (const _ of deletable) if (log.open) log.deleteOldest();
  }
}
