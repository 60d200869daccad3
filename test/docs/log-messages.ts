import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { LOG_LEVELS, type LogLevel, logSettings } from "../../agent/journal.ts";
import { root } from "./documents.ts";

/** A line that the sources can write. `message` has `...` where a value stands. */
export interface LogMessage {
  readonly level: LogLevel;
  readonly component: string;
  readonly message: string;
}

/** Every call that writes a line of agent/LOGS.md, in the TypeScript of `agent/` and the C of spawner and relay. */
export function logMessages(): readonly LogMessage[] {
  const sources = (folder: string, ending: string) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(ending))
      .map((name) => readFileSync(join(root, folder, name), "utf8"));
  const found = [
    ...sources("agent", ".ts").flatMap(ofTypeScript),
    ...sources("attest/service", ".ts").flatMap(ofService),
    // Written by their state and their level, not by a name.
    { level: "notice", component: "agent", message: "serving" } as const,
    { level: "error", component: "agent", message: "refused: ..." } as const,
    { level: "warning", component: "agent", message: PROBLEM } as const,
    ...sources("agent/spawner", ".c").flatMap((text) => ofC(text, "log_line", "spawner")),
    ...sources("agent/relay", ".c").flatMap((text) => ofC(text, "say", "relay")),
  ];
  const keys = new Map(found.map((line) => [`${line.component} ${line.level} ${line.message}`, line]));
  return [...keys.values()].sort(
    (left, right) => weight(left) - weight(right) || (left.message < right.message ? -1 : 1),
  );
}

function weight({ component, level }: LogMessage): number {
  const place = ["agent", "verifier", "spawner", "relay"].indexOf(component);
  return 10 * place + LOG_LEVELS[level];
}

function ofTypeScript(text: string): readonly LogMessage[] {
  const component =
    text.includes('new Journal("verifier"') || text.includes("(journal: Journal)") ? "verifier" : "agent";
  const calls = text.matchAll(/\bjournal\.(error|warning|notice|info|debug)\(\s*(`[^`]*`|"[^"]*"|failureOf\(error\))/g);
  return [...calls].map(([, level = "", argument = ""]) => ({
    level: level as LogLevel, // as the pattern has them
    component,
    message: argument.startsWith("failureOf") ? "..." : argument.slice(1, -1).replaceAll(/\$\{[^}]*\}/g, "..."),
  }));
}

/** What `logSettings` says of a variable that it cannot read. */
const PROBLEM = logSettings({ IRONCLAW_LOG: "" }).problem ?? "";

/** fastify's own log, which `agent/cli/verifier-log.ts` turns into lines. */
function ofService(text: string): readonly LogMessage[] {
  const calls = text.matchAll(/\blog\.(error|warn|info)\((?:[^;]|\n)*?"([a-z ]+)",?\s*\)/g);
  return [...calls].map(([, level = "", message = ""]) => ({
    level: level === "warn" ? "warning" : (level as LogLevel), // as the pattern has them
    component: "verifier",
    message,
  }));
}

const C_LEVELS: Readonly<Record<string, LogLevel>> = { ERROR: "error", WARNING: "warning", NOTICE: "notice" };

function ofC(text: string, name: string, component: string): readonly LogMessage[] {
  const calls = text.matchAll(new RegExp(`\\b${name}\\(\\s*(?:LEVEL_(\\w+) )?([A-Z_]+ )?"((?:[^"\\\\]|\\\\.)*)"`, "g"));
  return [...calls].map(([, level = "", constant = "", format = ""]) => ({
    level: C_LEVELS[level] ?? "info",
    component,
    message: `${constant === "" ? "" : "..."}${format}`.replaceAll(/%[-+ 0-9.]*z?[a-z]/g, "..."),
  }));
}
