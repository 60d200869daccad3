import type { AttestationResult, Challenge, Continuity, Enrolment, Reason } from "../index.ts";
import type { MachineEvent, MachineView } from "./machine-state.ts";

export interface MachineRecord {
  /** Of this enrolment: a retired machine's name may come again under another id. */
  readonly id: number;
  /** Grows with every change. */
  readonly revision: number;
  readonly name: string;
  readonly enrolment: Enrolment;
  readonly enrolledAt: string;
  readonly view: MachineView;
  readonly lastReport: number | null;
}

/** Everything that is needed to judge a report again. */
export interface StoredReport {
  readonly id: number;
  readonly at: string;
  readonly tier: AttestationResult["tier"] | "refused";
  readonly codes: readonly string[];
  readonly challenge: Challenge;
  readonly challenged: string;
  /** What continuity was compared with. */
  readonly previous: Continuity | null;
  /** The bytes as they came. */
  readonly evidence: Uint8Array;
  /** `null` where the evidence did not verify; then `reasons` say why. */
  readonly result: AttestationResult | null;
  readonly reasons: readonly Reason[];
}

export type ReportSummary = Pick<StoredReport, "id" | "at" | "tier" | "codes">;

/** One step of a machine's life. It is written as a whole or not at all. */
export interface MachineChange {
  readonly view: MachineView;
  readonly events: readonly MachineEvent[];
  readonly report?: Omit<StoredReport, "id">;
}

export type EnrolOutcome =
  | { readonly kind: "enrolled" | "enrolled-again"; readonly machine: MachineRecord }
  /** The name belongs to another EK, or another AK of the same one. */
  | { readonly kind: "name-taken" | "key-changed"; readonly machine: MachineRecord }
  /** The EK, its certificate or the AK is enrolled under another name; `other` is who holds this name, if anybody. */
  | { readonly kind: "clone"; readonly machine: MachineRecord; readonly other: MachineRecord | null };

export interface RejectedNote {
  readonly at: string;
  readonly count: number;
  readonly code: string;
}

/** How much is kept of each machine; the newest stay. */
export interface Retention {
  readonly reportsPerMachine: number;
  /** Evidence and verdicts together; the last report stays whatever its size. */
  readonly bytesPerMachine: number;
  /** Of kinds that a stranger or the machine can make many of, a tenth of this each, besides. */
  readonly eventsPerMachine: number;
}

/** The fleet in numbers. */
export interface Census {
  readonly states: ReadonlyMap<string, number>;
  readonly flags: ReadonlyMap<string, number>;
}

/**
 * What the service remembers. Each call is one transaction: when its promise resolves, what it wrote outlives the process and the
 * power. Every method throws ServiceError `ERR_SERVICE_STORE` when the disk does not do as it should.
 */
export interface VerifierStore {
  /** The machines that are enrolled, by name. */
  machines(): Promise<readonly MachineRecord[]>;
  machine(name: string): Promise<MachineRecord | null>;
  /** Those that are not silent and were not heard since then. */
  quietSince(at: string): Promise<readonly MachineRecord[]>;
  census(): Promise<Census>;
  /** Enrols where name and EK are free or belong together already. What it refuses, it leaves as it was. */
  enrol(enrolment: Enrolment, at: string): Promise<EnrolOutcome>;
  /** Writes unless the machine has changed since it was read: `false` then, and nothing was written. */
  change(machine: Pick<MachineRecord, "id" | "revision">, change: MachineChange): Promise<boolean>;
  /**
   * Notes reports in this machine's name that its key did not sign: in its newest event, if that is such a note too, or in a new one. What is
   * made of the machine's state meanwhile stays valid. `false` for a machine that is retired.
   */
  noteRejected(machine: number, note: RejectedNote): Promise<boolean>;
  /** Name and EK are free from then on; its reports stay until retention takes them. `false` when there is no such machine. */
  retire(name: string, at: string): Promise<boolean>;
  /** Newest first. */
  events(machine: number): Promise<readonly MachineEvent[]>;
  /** Newest first, without the evidence. */
  reports(machine: number): Promise<readonly ReportSummary[]>;
  report(machine: number, id: number): Promise<StoredReport | null>;
  /** The stored report of exactly these bytes. */
  sameReport(machine: number, evidence: Uint8Array): Promise<ReportSummary | null>;
  addToken(sha256: Uint8Array, name: string, expires: string): Promise<void>;
  /** Takes it away, whatever comes next: the name that it was made for, or `null`. */
  takeToken(sha256: Uint8Array, now: string): Promise<string | null>;
  /** Takes away what is older, but for a machine's last report. How many rows went. */
  prune(before: string): Promise<number>;
  /** Throws when it cannot read. */
  check(): Promise<void>;
  close(): Promise<void>;
}
