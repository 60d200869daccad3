import { parseJson } from "../../../policy/json.ts";
import { blankComments, parseCommentedJson } from "../../../policy/json-comments.ts";
import { JsonPositions, LineIndex } from "../../../policy/json-positions.ts";
import { JsonSyntaxError } from "../../../policy/json-scanner.ts";
import { expectTrue } from "../property.ts";

const LIMITS = { maxBytes: 4096, maxDepth: 16 };

/** With its comments blanked it is the same document, and each position lies on the token that it names; that of an error is in the text. */
export function run(bytes: Uint8Array): void {
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  const positions = new JsonPositions();
  let value: unknown;
  try {
    value = parseCommentedJson(bytes, "document", LIMITS, positions);
  } catch (error) {
    if (error instanceof JsonSyntaxError) checkPosition(text, error.offset);
    throw error;
  }
  const blanked = blankComments(text);
  expectTrue(blanked.length === text.length, "commented-json: offsets have moved");
  const plain = parseJson(new TextEncoder().encode(blanked), "document", { ...LIMITS, maxBytes: 4 * LIMITS.maxBytes });
  expectTrue(JSON.stringify(plain) === JSON.stringify(value), "commented-json: another value without its comments");
  checkPlaces(blanked, positions, value, []);
}

function checkPlaces(text: string, positions: JsonPositions, value: unknown, path: readonly (string | number)[]): void {
  const offset = positions.offsetOf(path);
  checkPosition(text, offset);
  expectTrue(positions.has(path) && !" \t\r\n".includes(text[offset] ?? " "), "commented-json: a position on no token");
  const name = path.at(-1);
  if (typeof name === "string") {
    const quoted = /"(?:[^"\\]|\\.)*"/y;
    quoted.lastIndex = positions.offsetOf(path, "name");
    expectTrue(JSON.parse(quoted.exec(text)?.[0] ?? "null") === name, "commented-json: a position on another name");
  }
  if (typeof value !== "object" || value === null) {
    const first = typeof value === "number" ? /[-0-9]/ : new RegExp(`[${JSON.stringify(value)[0]}]`);
    expectTrue(first.test(text[offset] ?? ""), "commented-json: a position on another value");
    return;
  }
  for (const [step, inside] of Array.isArray(value) ? value.entries() : Object.entries(value))
    checkPlaces(text, positions, inside, [...path, step]);
}

function checkPosition(text: string, offset: number): void {
  const { line, column } = new LineIndex(text).positionOf(offset);
  const start =
    text
      .split("\n")
      .slice(0, line - 1)
      .join("\n").length + (line > 1 ? 1 : 0);
  expectTrue(start + column - 1 === offset && offset <= text.length, "commented-json: a line and column of nothing");
}
