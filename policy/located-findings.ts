import { PolicyError } from "./errors.ts";
import { type DocumentFinding, FindingsError } from "./findings.ts";
import { parseCommentedJson } from "./json-comments.ts";
import { type JsonPath, JsonPositions, LineIndex, type Position } from "./json-positions.ts";
import { JsonSyntaxError } from "./json-scanner.ts";
import { POLICY_LIMITS } from "./policy.ts";

/** A finding, and where it stands in the text: null for what is of the whole document, such as its size. */
export interface LocatedFinding extends DocumentFinding {
  readonly position: Position | null;
}

const PIN_FIELDS: readonly (string | number | undefined)[] = ["path", "sha256", "closure", "config", "environment"];

/**
 * What an error of a document's reader found, with line and column in these bytes.
 * @returns null for another error, which is nobody's finding
 */
export function findingsOf(bytes: Uint8Array, error: unknown): readonly LocatedFinding[] | null {
  if (error instanceof FindingsError) return locateFindings(bytes, error.findings);
  if (!(error instanceof PolicyError)) return null;
  const position =
    error instanceof JsonSyntaxError
      ? new LineIndex(new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes)).positionOf(error.offset)
      : null;
  return [{ path: [], message: error.message, position }];
}

/** Findings about a document that was read, with line and column in its bytes, in their order. @throws PolicyError for bytes that are no document */
export function locateFindings<T extends DocumentFinding>(
  bytes: Uint8Array,
  findings: readonly T[],
): readonly (T & LocatedFinding)[] {
  const positions = new JsonPositions();
  parseCommentedJson(bytes, "document", POLICY_LIMITS, positions);
  const lines = new LineIndex(new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes));
  const located = findings.map((finding) => {
    const offset = positions.offsetOf(writtenPath(positions, finding.path), finding.at);
    return { offset, found: { ...finding, position: lines.positionOf(offset) } };
  });
  return located.sort((a, b) => a.offset - b.offset).map(({ found }) => found);
}

/** A finding is about the long form; where the document has a short one, the path to what was written. */
function writtenPath(positions: JsonPositions, path: JsonPath): JsonPath {
  const [first, second, third, ...rest] = path;
  if (first === "modules" && !positions.has(["modules"])) {
    if (third === "files") return ["credentials", "files", ...rest];
    if (third === undefined || PIN_FIELDS.includes(third)) return ["module", ...path.slice(2)];
    return path.slice(2);
  }
  if (first === "tokens" && !positions.has(["tokens"])) {
    return third === "pin" ? ["credentials", "pin"] : ["token", ...path.slice(2)];
  }
  const shortKey =
    first === "scopes" && third === "keys" && second !== undefined && positions.has([first, second, "key"]);
  return shortKey ? ["scopes", second, "key"] : path;
}
