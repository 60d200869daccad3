// The agent's log (LOGS.md): one event, one line, one write.
import { fstatSync, writeSync } from "node:fs";
import { printableLine, utf8 } from "../policy/index.ts";

/** Each with its number in sd-daemon(3). */
export const LOG_LEVELS = { error: 3, warning: 4, notice: 5, info: 6, debug: 7 } as const;
export type LogLevel = keyof typeof LOG_LEVELS;

export interface LogSettings {
  readonly form: "journal" | "plain";
  readonly least: LogLevel;
}

/** The two variables that settle how lines look, as the program was started with them. */
export interface LogEnvironment {
  readonly IRONCLAW_LOG?: string | undefined;
  readonly JOURNAL_STREAM?: string | undefined;
}

/** Bytes of a line, its line feed included. */
const MAX_LINE = 1024;
const STDERR = 2;

/** Pure but for `stderr`. A value that cannot be read counts as none; `problem` says so. */
export function logSettings(
  { IRONCLAW_LOG, JOURNAL_STREAM }: LogEnvironment,
  stderr: () => { readonly dev: number; readonly ino: number } = () => fstatSync(STDERR),
): LogSettings & { readonly problem: string | null } {
  const form = isJournal(JOURNAL_STREAM, stderr) ? "journal" : "plain";
  if (IRONCLAW_LOG === undefined) return { form, least: "info", problem: null };
  const [, asked, least] = /^(?:(journal|plain):)?(error|warning|notice|info|debug)$/.exec(IRONCLAW_LOG) ?? [];
  if (least === undefined) {
    return { form, least: "info", problem: "IRONCLAW_LOG: expected a level, or journal: or plain: and a level" };
  }
  // Both as the pattern has them.
  return { form: (asked ?? form) as LogSettings["form"], least: least as LogLevel, problem: null };
}

function isJournal(stream: string | undefined, stderr: () => { readonly dev: number; readonly ino: number }): boolean {
  if (stream === undefined) return false;
  try {
    const { dev, ino } = stderr();
    return stream === `${dev}:${ino}`;
  } catch {
    return false; // no standard error at all
  }
}

/** One line with its line feed, or null when nobody wants it. */
export function logLine(
  { form, least }: LogSettings,
  level: LogLevel,
  component: string,
  message: string,
): string | null {
  if (LOG_LEVELS[level] > LOG_LEVELS[least]) return null;
  const start = form === "journal" ? `<${LOG_LEVELS[level]}>` : `${level.toUpperCase()} `;
  return `${cutBytes(printableLine(`${start}${component}: ${message}`), MAX_LINE - 1)}\n`;
}

function cutBytes(text: string, most: number): string {
  const bytes = utf8(text.toWellFormed());
  if (bytes.length <= most) return text;
  // A character that the cut would split goes as a whole.
  const kept = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes.subarray(0, most - 3), { stream: true });
  return `${kept}...`;
}

/** What a line says of an error. */
export function failureOf(error: unknown): string {
  return error instanceof Error ? error.message : "unknown failure";
}

/** A program's log. Before `begin` it writes plain lines of every level but `debug`. */
export class Journal {
  readonly #component: string;
  readonly #write: (line: string) => void;
  #settings: LogSettings = { form: "plain", least: "info" };

  constructor(component: string, write: (line: string) => void) {
    this.#component = component;
    this.#write = write;
  }

  begin(environment: LogEnvironment): void {
    const { problem, ...settings } = logSettings(environment);
    this.#settings = settings;
    if (problem !== null) this.warning(problem);
  }

  error(message: string): void {
    this.write("error", message);
  }
  warning(message: string): void {
    this.write("warning", message);
  }
  notice(message: string): void {
    this.write("notice", message);
  }
  info(message: string): void {
    this.write("info", message);
  }
  write(level: LogLevel, message: string): void {
    const line = logLine(this.#settings, level, this.#component, message);
    if (line !== null) this.#write(line);
  }
}

/** A console that takes no line (a full disk, a log daemon that is gone) ends nothing: that line is lost, and the next is tried. */
export function writeToStandardError(line: string): void {
  try {
    writeSync(STDERR, line);
  } catch {}
}

/** The agent's own. Its program begins it. */
export const journal = new Journal("agent", writeToStandardError);
