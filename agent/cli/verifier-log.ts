import type { Journal, LogLevel } from "../journal.ts";

/** Numbers of the levels of fastify's own log, which is pino's. */
const LEVELS: ReadonlyMap<unknown, LogLevel> = new Map<unknown, LogLevel>([
  [60, "error"],
  [50, "error"],
  [40, "warning"],
  [30, "info"],
  [20, "debug"],
  [10, "debug"],
]);
/** The journal has a time, and the lines have no host or process in them. */
const LEFT_OUT: ReadonlySet<string> = new Set(["level", "time", "pid", "hostname", "msg"]);
/** A value that needs no quotes. */
const PLAIN = /^[A-Za-z0-9._:/+-]+$/;

/** Writes fastify's JSON lines as those of agent/LOGS.md. What is no such line is written as it is, as a warning. */
export function serviceLog(journal: Journal): { write(line: string): void } {
  return {
    write: (line) => {
      const record = readRecord(line);
      if (record === null) return journal.warning(line.trim());
      const { level, msg } = record;
      const facts = Object.entries(record)
        .filter(([name, value]) => !LEFT_OUT.has(name) && value !== undefined && value !== null)
        .map(([name, value]) => `${name}=${valueWord(value)}`);
      journal.write(LEVELS.get(level) ?? "info", [typeof msg === "string" ? msg : "-", ...facts].join(" "));
    },
  };
}

function readRecord(line: string): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : null; // any names
  } catch {
    return null;
  }
}

function valueWord(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return PLAIN.test(text) ? text : JSON.stringify(text);
}
