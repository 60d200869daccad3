import { join } from "node:path";
import { utf8 } from "../../policy/index.ts";
import { parseLine } from "../audit/record.ts";
import type { Files } from "./files.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";

/** Seconds that the clock of the machine and the one on its board may differ. */
const DRIFT = 120;

/**
 * Against the last record of the audit log, which the clock may not be behind, and against the machine's own.
 * @param latest of the log, milliseconds since 1970; 0 when there is none
 */
export function clockFinding(files: Files, now: number, latest: number): Finding {
  const said = new Date(now).toISOString();
  if (latest > now) {
    const got = `${said}, ${Math.ceil((latest - now) / 1000)} s behind`;
    return fail("clock", {
      expected: `not before the audit log's last record, ${new Date(latest).toISOString()}`,
      got,
    });
  }
  const board = Number(files.text("/sys/class/rtc/rtc0/since_epoch") ?? Number.NaN);
  if (Number.isNaN(board)) return ok("clock", `${said}; no clock on the board to compare with`);
  const apart = Math.abs(board - now / 1000);
  if (apart > DRIFT)
    return warn("clock", {
      expected: `within ${DRIFT} s of the clock on the board`,
      got: `${said}, ${Math.round(apart)} s apart`,
    });
  return ok(
    "clock",
    `${said}${latest === 0 ? "" : ", after the audit log's last record"}, and that on the board agrees`,
  );
}

/** When the last record of a log was written, milliseconds since 1970; 0 where there is none that can be read. */
export function latestRecord(files: Files, auditLog: string): number {
  const last = segmentsOf(files, auditLog).at(-1);
  const line = last === undefined ? undefined : files.text(join(auditLog, last))?.split("\n").at(-1);
  if (line === undefined) return 0;
  try {
    return Date.parse(parseLine(utf8(line), "audit log's last record").time);
  } catch {
    return 0; // torn, or another's file: `ironclaw audit verify` says which
  }
}

function segmentsOf(files: Files, auditLog: string): readonly string[] {
  return files.names(auditLog).filter((name) => /^\d{16}\.log$/.test(name));
}
