import type { Reason } from "../../attest/index.ts";
import type { CertifiedKey } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import { AuditKeeper } from "./keeper.ts";
import type { AuditLog, Durability, FileAuditLog } from "./log.ts";
import { type AuditEntry, type AuditHead, type AuditRecord, EMPTY_HEAD } from "./record.ts";

/** A part of a log. */
export interface AuditPage {
  readonly records: readonly AuditRecord[];
  /** Number of the oldest record that is kept. */
  readonly first: number;
  readonly head: AuditHead;
}

/** The machine's audit log: there once it is opened. Before that nothing can be decided, so nothing is written. */
export class MachineAudit implements AuditLog {
  #log: FileAuditLog | null = null;
  #keeper: AuditKeeper | null = null;
  #key: CertifiedKey | null = null;

  /** @param anchor keeps a head in the TPM; null where there is no place for it */
  open(log: FileAuditLog, anchor: ((head: AuditHead) => Promise<void>) | null = null): void {
    this.#log = log;
    this.#keeper = new AuditKeeper({ log, anchor, key: () => this.#key });
    this.#keeper.start();
  }
  /** From now on there are checkpoints. */
  signWith(key: CertifiedKey): void {
    this.#key = key;
  }

  append(entry: AuditEntry, durability: Durability): Promise<AuditHead> {
    if (this.#log !== null) return this.#log.append(entry, durability);
    return Promise.reject(new AgentError("ERR_AUDIT_WRITE", "audit log: not open yet"));
  }
  head(): AuditHead {
    return this.#log?.head() ?? EMPTY_HEAD;
  }
  latest(): number {
    return this.#log?.latest() ?? 0;
  }
  durableHead(): AuditHead {
    return this.#log?.durableHead() ?? EMPTY_HEAD;
  }
  /** A record could not be written: every later append fails. */
  get failed(): boolean {
    return this.#log?.failed ?? false;
  }
  get warnings(): readonly Reason[] {
    return this.#log?.warnings ?? [];
  }

  /** The records `from` and following, at most `limit`: bounded work whatever the log's length. @throws AgentError */
  read(from: number, limit: number): AuditPage {
    if (this.#log === null) {
      const expected = "a log that is open";
      throw new AgentError("ERR_ENVIRONMENT", "audit log", { expected, got: "a launch that has not come so far" });
    }
    const { segments } = this.#log;
    return { records: this.#log.read(from, limit), first: segments[0]?.first ?? 1, head: this.#log.head() };
  }

  /** A clean end: everything is on the disk, signed and anchored. */
  async stop(): Promise<void> {
    this.#keeper?.stop();
    await this.#keeper?.settle();
    this.close();
  }
  close(): void {
    this.#keeper?.stop();
    this.#log?.close();
  }
}
