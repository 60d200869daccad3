import type { DatabaseSync } from "node:sqlite";
import { ServiceError } from "./errors.ts";

/** "ICVS": so that another program's database is not taken for ours. */
const applicationId = 0x49435653;
/** 1 kept of a machine's last report what did not name its boot. */
export const schemaVersion = 2;

const schema = `
  CREATE TABLE machines (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    revision INTEGER NOT NULL,
    name TEXT NOT NULL,
    ek_name TEXT NOT NULL,
    ak_name TEXT NOT NULL,
    enrolment TEXT NOT NULL,
    enrolled_at TEXT NOT NULL,
    retired_at TEXT,
    state TEXT NOT NULL,
    heard_at TEXT NOT NULL,
    view TEXT NOT NULL,
    last_report INTEGER
  ) STRICT;
  CREATE UNIQUE INDEX machine_by_name ON machines (name) WHERE retired_at IS NULL;
  CREATE UNIQUE INDEX machine_by_ek ON machines (ek_name) WHERE retired_at IS NULL;
  CREATE UNIQUE INDEX machine_by_ak ON machines (ak_name) WHERE retired_at IS NULL;
  CREATE INDEX machine_by_silence ON machines (heard_at) WHERE retired_at IS NULL AND state <> 'silent';
  CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    machine INTEGER NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL
  ) STRICT;
  CREATE INDEX event_by_machine ON events (machine, id);
  CREATE INDEX event_by_age ON events (at);
  CREATE TABLE reports (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    machine INTEGER NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    at TEXT NOT NULL,
    tier TEXT NOT NULL,
    codes TEXT NOT NULL,
    nonce BLOB NOT NULL,
    bank TEXT NOT NULL,
    pcrs TEXT NOT NULL,
    challenged TEXT NOT NULL,
    previous TEXT,
    result TEXT,
    reasons TEXT NOT NULL,
    evidence BLOB NOT NULL
  ) STRICT;
  CREATE INDEX report_by_machine ON reports (machine, id);
  CREATE INDEX report_by_age ON reports (at);
  CREATE TABLE tokens (
    sha256 BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    expires TEXT NOT NULL
  ) STRICT, WITHOUT ROWID;
`;

/**
 * An enrolment looks for its EK's certificate among all others'. Made where it is missing: it holds nothing that the table does not, so a
 * database with it is of the same version as one without.
 */
const certificateIndex = `
  CREATE INDEX IF NOT EXISTS machine_by_certificate
    ON machines (json_extract(enrolment, '$.ekCertificateSha256')) WHERE retired_at IS NULL;
`;

/**
 * Makes the tables in an empty database, or sees that they are of the version this program writes. All in one transaction: a crash
 * leaves an empty database or a whole one. @throws ServiceError `ERR_SERVICE_STORE` for another program's or version's
 */
export function prepareSchema(database: DatabaseSync): void {
  // WAL with FULL: a commit is on the disk before it is acknowledged, and a reader never waits for a writer.
  database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;");
  database.exec("PRAGMA busy_timeout = 5000; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;");
  database.exec("BEGIN IMMEDIATE");
  try {
    const application = pragma(database, "application_id");
    const version = pragma(database, "user_version");
    const tables = database.prepare("SELECT count(*) AS count FROM sqlite_schema").get()?.["count"];
    if (application === 0 && version === 0 && tables === 0) {
      database.exec(schema);
      database.exec(`PRAGMA application_id = ${applicationId}; PRAGMA user_version = ${schemaVersion};`);
    } else if (application !== applicationId) {
      throw foreign("a verifier's database", `application_id ${application}`);
    } else if (version !== schemaVersion) {
      throw foreign(`schema version ${schemaVersion}`, `${version}`);
    }
    database.exec(certificateIndex);
    database.exec("COMMIT");
  } catch (error) {
    // After some failures SQLite has rolled back by itself.
    if (database.isTransaction) database.exec("ROLLBACK");
    throw error;
  }
}

function pragma(database: DatabaseSync, name: "application_id" | "user_version"): unknown {
  return database.prepare(`PRAGMA ${name}`).get()?.[name];
}

function foreign(expected: string, got: string): ServiceError {
  return new ServiceError("ERR_SERVICE_STORE", "store", { expected, got });
}
