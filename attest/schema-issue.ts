import type * as z from "zod";
import { AttestError, type AttestErrorCode } from "./errors.ts";

/**
 * The typed error for a document that its schema refused: the first finding, with the path of the field, what was expected and what was found.
 * @param what names the document
 */
export function schemaError(code: AttestErrorCode, what: string, { issues }: z.ZodError): AttestError {
  const issue = issues[0] === undefined ? undefined : innermost(issues[0]);
  if (issue === undefined) return new AttestError(code, what, { expected: "a document of the schema", got: "another" });
  const path = issue.path.map(String).join(".").slice(0, 200);
  if (issue.code === "unrecognized_keys") {
    return new AttestError(code, `${what} ${path || "document"}`, {
      expected: "no other field",
      got: issue.keys.slice(0, 8).join(", ").slice(0, 200),
    });
  }
  return new AttestError(code, `${what} ${path || "document"}`, {
    expected: expectedOf(issue),
    got: shown(issue.input),
  });
}

/** Of a field that may have several forms: what is wrong inside the form that was meant, where one was begun. */
function innermost(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== "invalid_union") return issue;
  const inside = issue.errors.map(([first]) => first).find((first) => first !== undefined && first.path.length > 0);
  return inside === undefined ? issue : innermost({ ...inside, path: [...issue.path, ...inside.path] });
}

function expectedOf(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case "invalid_type":
      return issue.expected;
    case "invalid_value":
      return issue.values.map((value) => JSON.stringify(value)).join(" or ");
    case "too_big":
      return `at most ${issue.maximum}${unitOf(issue.origin)}`;
    case "too_small":
      return `at least ${issue.minimum}${unitOf(issue.origin)}`;
    default:
      return issue.message.replace(/^expected /i, "");
  }
}

function unitOf(origin: string): string {
  if (origin === "string") return " characters";
  return origin === "array" ? " entries" : "";
}

function shown(input: unknown): string {
  if (input === undefined) return "nothing";
  if (Array.isArray(input)) return `a list of ${input.length}`;
  return typeof input === "object" && input !== null ? "an object" : JSON.stringify(input).slice(0, 100);
}
