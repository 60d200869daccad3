import { FindingsError, findingsOf, type LocatedFinding, PolicyError } from "../../policy/index.ts";
import type { CommandInput, CommandIo } from "./command.ts";
import { renderJson } from "./output.ts";

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
  const { path, message, position } = finding;
  return { severity, code, path, line: position?.line ?? null, column: position?.column ?? null, message };
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
    const facts = findings.map((finding) => findingFacts(finding, "error", error.code));
    const lines = facts.map((fact) => findingLine(file, fact)).join("\n");
    io.print(input.flag("json") ? renderJson({ ok: false, findings: facts }) : lines);
    if (!(error instanceof FindingsError)) throw error;
    throw new PolicyError(error.code, file, { expected: "no finding", got: `${findings.length}`, cause: error });
  }
}
