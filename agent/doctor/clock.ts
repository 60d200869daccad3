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
