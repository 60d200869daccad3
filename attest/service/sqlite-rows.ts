import type { SQLInputValue, SQLOutputValue } from "node:sqlite";
import type { Enrolment } from "../index.ts";
import { ServiceError } from "./errors.ts";
import type { MachineEvent, MachineView } from "./machine-state.ts";
import type { MachineChange, MachineRecord, ReportSummary, StoredReport } from "./store.ts";

export type Row = Record<string, SQLOutputValue>;

/** What SQLite says is for the log; it names tables, never values. */
export function guarded<T>(act: () => T): T {
  try {
    return act();
  } catch (cause) {
    if (cause instanceof ServiceError) throw cause;
    const got = cause instanceof Error ? cause.message.slice(0, 200) : "a failure";
    throw new ServiceError("ERR_SERVICE_STORE", "store", { expected: "one that reads and writes", got, cause });
  }
}

export function required<T>(value: T | null): T {
  if (value === null)
    throw new ServiceError("ERR_SERVICE_STORE", "store", { expected: "the row that was written", got: "none" });
  return value;
}

/** From when silence is counted. */
export const heardAt = ({ lastSeen, since }: MachineView) => lastSeen ?? since;
const jsonOrNull = (value: unknown) => (value === null ? null : JSON.stringify(value));

/** Rows are our own words (STRICT tables): their types are those of the schema. */
export function textOf(row: Row, column: string): string {
  return required(typeof row[column] === "string" ? row[column] : null);
}
export function numberOf(row: Row, column: string): number {
  return required(typeof row[column] === "number" ? row[column] : null);
}
function bytesOf(row: Row, column: string): Uint8Array {
  return required(row[column] instanceof Uint8Array ? row[column] : null);
}
function jsonOf<T>(row: Row, column: string): T {
  return row[column] === null ? (null as T) : (JSON.parse(textOf(row, column)) as T); // written by this file with JSON.stringify
}

export function machineOf(row: Row): MachineRecord {
  return {
    id: numberOf(row, "id"),
    revision: numberOf(row, "revision"),
    name: textOf(row, "name"),
    enrolment: jsonOf<Enrolment>(row, "enrolment"), // checked when it was written
    enrolledAt: textOf(row, "enrolled_at"),
    view: viewOf(row),
    lastReport: row["last_report"] === null ? null : numberOf(row, "last_report"),
  };
}

/** A count beyond what is exact would make the whole fleet's answer none of its schema. */
function viewOf(row: Row): MachineView {
  const view = jsonOf<MachineView>(row, "view");
  return { ...view, violations: Math.min(view.violations, Number.MAX_SAFE_INTEGER) };
}

export function eventOf(row: Row): MachineEvent {
  return { at: textOf(row, "at"), kind: textOf(row, "kind") as MachineEvent["kind"], detail: jsonOf(row, "detail") };
}

export function summaryOf(row: Row): ReportSummary {
  const tier = textOf(row, "tier") as ReportSummary["tier"];
  return { id: numberOf(row, "id"), at: textOf(row, "at"), tier, codes: jsonOf(row, "codes") };
}

export function reportOf(row: Row): StoredReport {
  const bank = textOf(row, "bank") as StoredReport["challenge"]["bank"];
  return {
    ...summaryOf(row),
    challenge: { nonce: bytesOf(row, "nonce"), bank, pcrs: jsonOf(row, "pcrs") },
    challenged: textOf(row, "challenged"),
    previous: jsonOf(row, "previous"),
    evidence: bytesOf(row, "evidence"),
    result: jsonOf(row, "result"),
    reasons: jsonOf(row, "reasons"),
  };
}

/** A change as its tables have it: texts, which are passed on to another thread for less than what they are made of. */
export interface ChangeRows {
  readonly view: string;
  readonly state: string;
  readonly heardAt: string;
  readonly events: readonly EventRow[];
  /** The columns behind `machine`. */
  readonly report: readonly SQLInputValue[] | null;
}

export type EventRow = Omit<MachineEvent, "detail"> & { readonly detail: string };

export function rowsOf({ view, events, report }: MachineChange): ChangeRows {
  return {
    ...{ view: JSON.stringify(view), state: view.state, heardAt: heardAt(view) },
    events: events.map(eventRow),
    report: report === undefined ? null : reportColumns(report),
  };
}

export function eventRow({ at, kind, detail }: MachineEvent): EventRow {
  return { at, kind, detail: JSON.stringify(detail) };
}

function reportColumns(report: Omit<StoredReport, "id">): readonly SQLInputValue[] {
  const { nonce, bank, pcrs } = report.challenge;
  return [
    ...[report.at, report.tier, JSON.stringify(report.codes), nonce, bank, JSON.stringify(pcrs), report.challenged],
    ...[jsonOrNull(report.previous), jsonOrNull(report.result), JSON.stringify(report.reasons), report.evidence],
  ];
}
