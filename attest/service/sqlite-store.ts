import { closeSync, openSync } from "node:fs";
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { type Enrolment, encodeEnrolment } from "../index.ts";
import { ServiceError } from "./errors.ts";
import { enrolledView, type MachineEvent } from "./machine-state.ts";
import { trimEvents, trimReports } from "./sqlite-retention.ts";
import {
  type ChangeRows,
  type EventRow,
  eventOf,
  eventRow,
  guarded,
  heardAt,
  machineOf,
  numberOf,
  type Row,
  reportOf,
  required,
  rowsOf,
  summaryOf,
  textOf,
} from "./sqlite-rows.ts";
import { prepareSchema } from "./sqlite-schema.ts";
import type {
  Census,
  EnrolOutcome,
  MachineChange,
  MachineRecord,
  RejectedNote,
  ReportSummary,
  Retention,
  StoredReport,
  VerifierStore,
} from "./store.ts";

/**
 * The store of one node: an SQLite file, mode 0600. The calls block this thread for as long as a short transaction takes.
 * @throws ServiceError `ERR_SERVICE_STORE`
 */
export function openSqliteStore(path: string, retention: Retention): SqliteStore {
  return guarded(() => {
    if (path !== ":memory:") closeSync(openSync(path, "a", 0o600));
    const database = new DatabaseSync(path, { enableForeignKeyConstraints: true, allowExtension: false });
    try {
      prepareSchema(database);
    } catch (error) {
      database.close();
      throw error;
    }
    return new SqliteStore(database, retention);
  });
}

export class SqliteStore implements VerifierStore {
  readonly #database: DatabaseSync;
  readonly #retention: Retention;
  /** By their text, of which there are as many as this folder has. */
  readonly #prepared = new Map<string, StatementSync>();

  constructor(database: DatabaseSync, retention: Retention) {
    this.#database = database;
    this.#retention = retention;
  }

  async machines(): Promise<readonly MachineRecord[]> {
    return guarded(() => this.#all("SELECT * FROM machines WHERE retired_at IS NULL ORDER BY name").map(machineOf));
  }

  async machine(name: string): Promise<MachineRecord | null> {
    return guarded(() => this.#machineBy("name", name));
  }

  async quietSince(at: string): Promise<readonly MachineRecord[]> {
    const quiet = "retired_at IS NULL AND state <> 'silent' AND heard_at < ?";
    return guarded(() => this.#all(`SELECT * FROM machines WHERE ${quiet}`, at).map(machineOf));
  }

  async census(): Promise<Census> {
    return guarded(() => ({
      states: this.#count(
        "SELECT state AS what, count(*) AS count FROM machines WHERE retired_at IS NULL GROUP BY state",
      ),
      flags: this.#count(
        `SELECT flag.value AS what, count(*) AS count FROM machines, json_each(view, '$.flags') AS flag
           WHERE retired_at IS NULL GROUP BY flag.value`,
      ),
    }));
  }

  async enrol(enrolment: Enrolment, at: string): Promise<EnrolOutcome> {
    return this.#transaction(() => {
      const { name, ekName, akName, ekCertificateSha256 } = enrolment;
      const byName = this.#machineBy("name", name);
      // A TPM has several EKs, and a certified key has a Name for each template: either of these under another name is the same TPM.
      const same = [
        this.#machineBy("ek_name", ekName),
        this.#machineBy("ak_name", akName),
        this.#machineByCertificate(ekCertificateSha256, name),
      ];
      const elsewhere = same.find((found) => found !== null && found.name !== name);
      if (elsewhere != null) return { kind: "clone", machine: elsewhere, other: byName };
      if (byName === null) return { kind: "enrolled", machine: this.#addMachine(enrolment, at) };
      if (byName.enrolment.ekName !== ekName) return { kind: "name-taken", machine: byName };
      if (byName.enrolment.akName !== akName) return { kind: "key-changed", machine: byName };
      this.#addEvent(byName.id, eventRow({ at, kind: "enrolled-again", detail: {} }));
      return { kind: "enrolled-again", machine: byName };
    });
  }

  async change(machine: Pick<MachineRecord, "id" | "revision">, change: MachineChange): Promise<boolean> {
    return this.changeRows(machine, rowsOf(change));
  }

  /** `change`, of what `rowsOf` makes of it. */
  async changeRows(
    { id, revision }: Pick<MachineRecord, "id" | "revision">,
    { view, state, heardAt, events, report }: ChangeRows,
  ): Promise<boolean> {
    return this.#transaction(() => {
      const { changes } = this.#run(
        `UPDATE machines SET revision = revision + 1, view = ?, state = ?, heard_at = ?
           WHERE id = ? AND revision = ? AND retired_at IS NULL`,
        ...[view, state, heardAt, id, revision],
      );
      if (Number(changes) === 0) return false;
      for (const event of events) this.#addEvent(id, event);
      if (report !== null) this.#addReport(id, report);
      return true;
    });
  }

  async noteRejected(machine: number, { at, count, code }: RejectedNote): Promise<boolean> {
    return this.#transaction(() => {
      if (this.#all("SELECT id FROM machines WHERE id = ? AND retired_at IS NULL", machine).length === 0) return false;
      const [newest] = this.#all("SELECT * FROM events WHERE machine = ? ORDER BY id DESC LIMIT 1", machine);
      if (newest === undefined || textOf(newest, "kind") !== "rejected") {
        this.#addEvent(machine, eventRow({ at, kind: "rejected", detail: { count, code } }));
        return true;
      }
      const all = Math.min(Number(eventOf(newest).detail["count"]) + count, Number.MAX_SAFE_INTEGER);
      const values = [at, JSON.stringify({ count: all, code }), numberOf(newest, "id")];
      this.#run("UPDATE events SET at = ?, detail = ? WHERE id = ?", ...values);
      return true;
    });
  }

  async retire(name: string, at: string): Promise<boolean> {
    return this.#transaction(() => {
      const machine = this.#machineBy("name", name);
      if (machine === null) return false;
      this.#run("UPDATE machines SET retired_at = ?, revision = revision + 1 WHERE id = ?", at, machine.id);
      this.#addEvent(machine.id, eventRow({ at, kind: "retired", detail: {} }));
      return true;
    });
  }

  async events(machine: number): Promise<readonly MachineEvent[]> {
    return guarded(() =>
      this.#all("SELECT at, kind, detail FROM events WHERE machine = ? ORDER BY id DESC", machine).map(eventOf),
    );
  }

  async sameReport(machine: number, evidence: Uint8Array): Promise<ReportSummary | null> {
    return guarded(() => {
      const columns = "SELECT id, at, tier, codes FROM reports WHERE machine = ?";
      const [row] = this.#all(
        `${columns} AND length(evidence) = ? AND evidence = ?`,
        machine,
        evidence.length,
        evidence,
      );
      return row === undefined ? null : summaryOf(row);
    });
  }

  async reports(machine: number): Promise<readonly ReportSummary[]> {
    return guarded(() =>
      this.#all("SELECT id, at, tier, codes FROM reports WHERE machine = ? ORDER BY id DESC", machine).map(summaryOf),
    );
  }

  async report(machine: number, id: number): Promise<StoredReport | null> {
    return guarded(() => {
      const [row] = this.#all("SELECT * FROM reports WHERE machine = ? AND id = ?", machine, id);
      return row === undefined ? null : reportOf(row);
    });
  }

  async addToken(sha256: Uint8Array, name: string, expires: string): Promise<void> {
    this.#transaction(() =>
      this.#run("INSERT INTO tokens (sha256, name, expires) VALUES (?, ?, ?)", sha256, name, expires),
    );
  }

  async takeToken(sha256: Uint8Array, now: string): Promise<string | null> {
    return this.#transaction(() => {
      const [row] = this.#all("DELETE FROM tokens WHERE sha256 = ? RETURNING name, expires", sha256);
      return row === undefined || textOf(row, "expires") <= now ? null : textOf(row, "name");
    });
  }

  async prune(before: string): Promise<number> {
    return this.#transaction(() => {
      const latest = "SELECT last_report FROM machines WHERE retired_at IS NULL AND last_report IS NOT NULL";
      const gone = [
        this.#run("DELETE FROM machines WHERE retired_at < ?", before),
        this.#run("DELETE FROM tokens WHERE expires < ?", before),
        this.#run(`DELETE FROM reports WHERE at < ? AND id NOT IN (${latest})`, before),
        this.#run("DELETE FROM events WHERE at < ?", before),
      ];
      return gone.reduce((sum, { changes }) => sum + Number(changes), 0);
    });
  }

  /**
   * Runs these writes of this store as one transaction, which costs one wait for the disk. Each is written as a whole or not at all, as if it
   * were alone, and none was before this resolves.
   * @throws ServiceError `ERR_SERVICE_STORE` where none of them is written
   */
  async together(writes: readonly (() => Promise<unknown>)[]): Promise<readonly PromiseSettledResult<unknown>[]> {
    const outcomes = this.#transaction(() =>
      writes.map((write) => {
        const outcome = write();
        outcome.catch(() => undefined); // looked at below, unless another one ends the transaction
        // After some failures SQLite has rolled back all of it: those before are gone as well.
        if (!this.#database.isTransaction) throw lost();
        return outcome;
      }),
    );
    return Promise.allSettled(outcomes);
  }

  async check(): Promise<void> {
    guarded(() => this.#all("SELECT id FROM machines LIMIT 1"));
  }

  async close(): Promise<void> {
    guarded(() => this.#database.close());
  }

  #addMachine(enrolment: Enrolment, at: string): MachineRecord {
    const { name, ekName, akName, assurance } = enrolment;
    const view = enrolledView(at);
    const { lastInsertRowid } = this.#run(
      `INSERT INTO machines (revision, name, ek_name, ak_name, enrolment, enrolled_at, view, state, heard_at)
         VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)`,
      ...[name, ekName, akName, new TextDecoder().decode(encodeEnrolment(enrolment)), at],
      ...[JSON.stringify(view), view.state, heardAt(view)],
    );
    this.#addEvent(Number(lastInsertRowid), eventRow({ at, kind: "enrolled", detail: { assurance } }));
    return required(this.#machineBy("name", name));
  }

  #machineBy(column: "name" | "ek_name" | "ak_name", value: string): MachineRecord | null {
    const [row] = this.#all(`SELECT * FROM machines WHERE ${column} = ? AND retired_at IS NULL`, value);
    return row === undefined ? null : machineOf(row);
  }

  #machineByCertificate(sha256: string | null, otherThan: string): MachineRecord | null {
    const enrolled = "retired_at IS NULL AND name <> ? AND json_extract(enrolment, '$.ekCertificateSha256') = ?";
    const [row] = this.#all(`SELECT * FROM machines WHERE ${enrolled} LIMIT 1`, otherThan, sha256);
    return row === undefined ? null : machineOf(row);
  }

  #addEvent(machine: number, { at, kind, detail }: EventRow): void {
    this.#run("INSERT INTO events (machine, at, kind, detail) VALUES (?, ?, ?, ?)", machine, at, kind, detail);
    trimEvents((sql) => this.#prepare(sql), machine, kind, this.#retention);
  }

  #addReport(machine: number, columns: readonly SQLInputValue[]): void {
    const { lastInsertRowid } = this.#run(
      `INSERT INTO reports (machine, at, tier, codes, nonce, bank, pcrs, challenged, previous, result, reasons, evidence)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      ...[machine, ...columns],
    );
    this.#run("UPDATE machines SET last_report = ? WHERE id = ?", lastInsertRowid, machine);
    trimReports((sql) => this.#prepare(sql), machine, this.#retention);
  }

  #count(sql: string): ReadonlyMap<string, number> {
    return new Map(this.#all(sql).map((row) => [textOf(row, "what"), numberOf(row, "count")]));
  }

  #all(sql: string, ...values: readonly SQLInputValue[]): readonly Row[] {
    return this.#prepare(sql).all(...values);
  }

  #run(sql: string, ...values: readonly SQLInputValue[]) {
    return this.#prepare(sql).run(...values);
  }

  #prepare(sql: string): StatementSync {
    const known = this.#prepared.get(sql);
    if (known !== undefined) return known;
    const statement = this.#database.prepare(sql);
    this.#prepared.set(sql, statement);
    return statement;
  }

  /** Inside `together` it is a part of that transaction, which can fail by itself. */
  #transaction<T>(act: () => T): T {
    const [begin, end, undo] = this.#database.isTransaction ? part : whole;
    return guarded(() => {
      this.#database.exec(begin);
      try {
        const value = act();
        this.#database.exec(end);
        return value;
      } catch (error) {
        if (this.#database.isTransaction) this.#database.exec(undo);
        throw error;
      }
    });
  }
}

/** How a transaction begins, ends and is given up; and a part of one. */
const whole = ["BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"] as const;
const part = ["SAVEPOINT part", "RELEASE part", "ROLLBACK TO part; RELEASE part"] as const;

function lost(): ServiceError {
  return new ServiceError("ERR_SERVICE_STORE", "store", { expected: "a transaction", got: "one that was rolled back" });
}
