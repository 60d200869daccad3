import type * as z from "zod";
import { PolicyError } from "./errors.ts";
import type { JsonPath } from "./json-positions.ts";
import { boundedLine } from "./printable.ts";

/** Something wrong in a document, and where: names and indices from the document inwards. */
export interface DocumentFinding {
  readonly path: JsonPath;
  /** In full, for whoever sees no positions. */
  readonly message: string;
  /** `name`: what is wrong is the name under which something stands. */
  readonly at?: "name";
}

/** A document of the largest size can have a quarter of a million. */
const MAX_IN_MESSAGE = 64;
/** Characters of each. */
const MOST_IN_MESSAGE = 500;

/** A document whose fields or references do not hold: every finding, the first of them in the message. */
export class FindingsError extends PolicyError {
  readonly findings: readonly DocumentFinding[];

  constructor(what: string, findings: readonly DocumentFinding[]) {
    const messages = findings.slice(0, MAX_IN_MESSAGE).map(({ message }) => boundedLine(message, MOST_IN_MESSAGE));
    const left = findings.length - messages.length;
    const all = [...messages, ...(left === 0 ? [] : [`and ${left} more`])].join("; ");
    super("ERR_POLICY_INVALID", `${what}: ${findings.length} finding${findings.length === 1 ? "" : "s"}: ${all}`);
    this.findings = findings;
  }
}

/** Findings at one place of the document. */
export function findingsAt(path: JsonPath, messages: readonly string[]): readonly DocumentFinding[] {
  return messages.map((message) => ({ path, message }));
}

/** Findings inside something: their paths are from there, and their messages begin with its label, where it has one. */
export function findingsIn(
  path: JsonPath,
  label: string | null,
  inside: readonly DocumentFinding[],
): readonly DocumentFinding[] {
  return inside.map((finding) => ({
    ...finding,
    path: [...path, ...finding.path],
    message: label === null ? finding.message : `${label}: ${finding.message}`,
  }));
}

/** One finding for each value that has stood before, at the later place. */
export function repeatFindings(
  entries: readonly { readonly value: string; readonly path: JsonPath }[],
  message: (value: string) => string,
): readonly DocumentFinding[] {
  const seen = new Set<string>();
  return entries.flatMap(({ value, path }) => {
    if (seen.has(value)) return [{ path, message: message(value) }];
    seen.add(value);
    return [];
  });
}

/** The values of a list with their places, for `repeatFindings`. */
export function listed(
  path: JsonPath,
  values: readonly string[],
): readonly { readonly value: string; readonly path: JsonPath }[] {
  return values.map((value, index) => ({ value, path: [...path, index] }));
}

/** What a schema found. */
export function schemaFindings({ issues }: z.ZodError): readonly DocumentFinding[] {
  return issues.flatMap((issue) => {
    const path = issue.path.map((step) => (typeof step === "number" ? step : String(step)));
    const label = path.length === 0 ? "document" : path.join(".");
    switch (issue.code) {
      case "unrecognized_keys":
        return issue.keys.map((key) => ({
          path: [...path, key],
          message: `${label}: unrecognized key: ${JSON.stringify(key)}`,
          at: "name" as const,
        }));
      case "invalid_key": {
        const why = issue.issues[0]?.message ?? issue.message;
        return [{ path, message: `${label}: ${why.toLowerCase()}`, at: "name" as const }];
      }
      default:
        return [{ path, message: `${label}: ${issue.message.toLowerCase()}` }];
    }
  });
}
