import { boundedLine, FindingsError, findingsOf, type LocatedFinding, PolicyError } from "../../policy/index.ts";
import type { CommandInput, CommandIo } from "./command.ts";
import { renderJson } from "./output.ts";

/** Of one document: a hostile one can have a quarter of a million. */
const MOST_FINDINGS = 100;
/** Characters of a message, and of a name on the way to a place. */
const MOST_MESSAGE = 500;
const MOST_NAME = 100;

/** A finding as `--json` has it. */
export interface FindingFacts {
  readonly severity: "error" | "warning" | "note";
  readonly code: string;
  readonly path: LocatedFinding["path"];
  /** From 1, the column in UTF-16 code units; null for what is of the whole document. */
  readonly line: number | null;
  readonly column: number | null;
  readonly message: string;
}

export function findingFacts(finding: LocatedFinding, severity: FindingFacts["severity"], code: string): FindingFacts {
  const { position } = finding;
  const path = finding.path.map((step) => (typeof step === "number" ? step : boundedLine(step, MOST_NAME)));
  const message = boundedLine(finding.message, MOST_MESSAGE);
  return { severity, code, path, line: position?.line ?? null, column: position?.column ?? null, message };
}

/** Those that are printed, and how many there are beyond them. */
export function firstOf<T>(findings: readonly T[]): { readonly shown: readonly T[]; readonly more: number } {
  const shown = findings.slice(0, MOST_FINDINGS);
  return { shown, more: findings.length - shown.length };
}

/** The last line below findings that are not all shown. */
export function moreLine(file: string, more: number): readonly string[] {
  return more === 0 ? [] : [`${file}: and ${more} more`];
}

/** As compilers print theirs, so that editors and terminals lead to the place. */
export function findingLine(file: string, { severity, code, line, column, message }: FindingFacts): string {
  const place = line === null ? file : `${file}:${line}:${column}`;
  return severity === "error" ? `${place}: ${message}` : `${place}: ${severity}: ${message} (${code})`;
}

/**
 * Reads a document; what its reader finds is printed with line and column, and the error that then ends the command says how much it was.
 * @throws whatever `read` throws; of several findings, their count
 */
export function readOrList<T>(
  file: string,
  bytes: Uint8Array,
  read: (bytes: Uint8Array) => T,
  input: CommandInput,
  io: CommandIo,
): T {
  try {
    return read(bytes);
  } catch (error) {
    const findings = findingsOf(bytes, error);
    if (findings === null || !(error instanceof PolicyError)) throw error;
    const { shown, more } = firstOf(findings);
    const facts = shown.map((finding) => findingFacts(finding, "error", error.code));
    const lines = [...facts.map((fact) => findingLine(file, fact)), ...moreLine(file, more)].join("\n");
    io.print(input.flag("json") ? renderJson({ ok: false, findings: facts, more }) : lines);
    if (!(error instanceof FindingsError)) throw error;
    throw new PolicyError(error.code, file, { expected: "no finding", got: `${findings.length}`, cause: error });
  }
}
