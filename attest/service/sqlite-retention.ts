import type { StatementSync } from "node:sqlite";
import type { MachineEvent } from "./machine-state.ts";
import { numberOf } from "./sqlite-rows.ts";
import type { Retention } from "./store.ts";

type Prepare = (sql: string) => StatementSync;

/**
 * The oldest events beyond so many go in the transaction that adds one. Kinds that a stranger or the machine can make as many of as they like
 * have quotas of their own, so that they push out nothing else.
 */
export function trimEvents(
  prepare: Prepare,
  machine: number,
  kind: MachineEvent["kind"],
  { eventsPerMachine }: Retention,
): void {
  const many = kind === "rejected" || kind === "violation";
  const which = many ? "machine = ? AND kind = ?" : "machine = ? AND kind NOT IN ('rejected', 'violation')";
  const values = many ? [machine, kind] : [machine];
  const keep = many ? Math.ceil(eventsPerMachine / 10) : eventsPerMachine;
  const newest = `SELECT id FROM events WHERE ${which} ORDER BY id DESC LIMIT 1 OFFSET ?`;
  prepare(`DELETE FROM events WHERE ${which} AND id <= (${newest})`).run(...values, ...values, keep);
}

/** The same for reports, which are counted and weighed. The last one stays, whatever its size. */
export function trimReports(prepare: Prepare, machine: number, retention: Retention): void {
  const { reportsPerMachine, bytesPerMachine } = retention;
  const newest = "SELECT id FROM reports WHERE machine = ? ORDER BY id DESC LIMIT 1 OFFSET ?";
  prepare(`DELETE FROM reports WHERE machine = ? AND id <= (${newest})`).run(machine, machine, reportsPerMachine);
  const size = "octet_length(evidence) + octet_length(reasons) + octet_length(codes) + ifnull(octet_length(result), 0)";
  const [weighed] = prepare(`SELECT sum(${size}) AS bytes FROM reports WHERE machine = ?`).all(machine);
  if (weighed === undefined || numberOf(weighed, "bytes") <= bytesPerMachine) return;
  const summed = `SELECT id, sum(${size}) OVER (ORDER BY id DESC) AS bytes FROM reports WHERE machine = ?`;
  const last = "SELECT max(id) FROM reports WHERE machine = ?";
  prepare(`DELETE FROM reports WHERE id IN (SELECT id FROM (${summed}) WHERE bytes > ? AND id < (${last}))`).run(
    ...[machine, bytesPerMachine, machine],
  );
}
