import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { utf8 } from "../../policy/bytes.ts";
import { PolicyError } from "../../policy/errors.ts";
import { type Json, parseJson } from "../../policy/json.ts";
import { blankComments, parseCommentedJson } from "../../policy/json-comments.ts";
import { JsonPositions, LineIndex } from "../../policy/json-positions.ts";
import { JsonSyntaxError } from "../../policy/json-scanner.ts";

const LIMITS = { maxBytes: 1 << 20, maxDepth: 16 };
const read = (text: string, positions: JsonPositions | null = null) =>
  parseCommentedJson(utf8(text), "document", LIMITS, positions);

function refusal(text: string): PolicyError {
  try {
    read(text);
  } catch (error) {
    if (error instanceof PolicyError) return error;
    throw error;
  }
  throw new Error("expected a refusal");
}

function offsetOfError(text: string): number {
  const error = refusal(text);
  if (error instanceof JsonSyntaxError) return error.offset;
  throw error;
}

/** White space and comments, as people write them. */
const gap = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        "",
        " ",
        "\t",
        "\n",
        "\r\n",
        "// \u00e9 {\n",
        '// "a": 1, \u{1f600}\r\n',
        '/* ] " */',
        "/***/",
        "/* two\nlines \u00e9 // */",
      ),
    ),
    { maxLength: 3 },
  )
  .map((parts) => parts.join(""));
const value = fc.letrec<{ json: Json }>((tie) => ({
  json: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.constantFrom<Json>(null, true, false, "a // b", '/* "\\', "\u00e9\u{1f600}"),
    fc.integer(),
    fc.array(tie("json"), { maxLength: 4 }),
    fc.dictionary(fc.stringMatching(/^[a-z"\\/*]{1,4}$/), tie("json"), { maxKeys: 4 }),
  ),
})).json;

/** The value's text, with a gap wherever one may stand. */
function spaced(json: Json, next: () => string): string {
  const inside = (): string => {
    if (Array.isArray(json)) return `[${json.map((item) => spaced(item, next)).join(",") || next()}]`;
    if (typeof json !== "object" || json === null) return JSON.stringify(json);
    const entries = Object.entries(json).map(
      ([name, held]) => `${next()}${JSON.stringify(name)}${next()}:${spaced(held, next)}`,
    );
    return `{${entries.join(",") || next()}}`;
  };
  return `${next()}${inside()}${next()}`;
}

const written = fc.tuple(value, fc.array(gap, { minLength: 1, maxLength: 12 })).map(([json, gaps]) => {
  let at = 0;
  return { json, text: spaced(json, () => gaps[at++ % gaps.length] ?? "") };
});

/** Every path of a value, with what is there. */
function* places(json: Json, path: readonly (string | number)[] = []): Generator<[readonly (string | number)[], Json]> {
  yield [path, json];
  if (Array.isArray(json)) for (const [index, item] of json.entries()) yield* places(item, [...path, index]);
  else if (typeof json === "object" && json !== null)
    for (const [name, held] of Object.entries(json)) yield* places(held, [...path, name]);
}

describe("comments in a document", () => {
  it("I10: comments are blanked where no string is, offsets stay, and the time grows with the text only", () => {
    expect(blankComments('{"a": "// no", "b\\"/*": 1} // yes\n/*\n*/ 2')).toBe(
      `{"a": "// no", "b\\"/*": 1}       \n  \n   2`,
    );
    expect(blankComments("1 / 2")).toBe("1 / 2");
    expect(blankComments('"open \\')).toBe('"open \\');
    expect(blankComments("/* \u00e9\u{1f600} */1")).toBe("         1");
    const many = "/*/".repeat(1 << 16);
    expect(blankComments(many)).toHaveLength(many.length);
    expect(blankComments("/* /* /* x")).toBe("/* /* /* x");
  });

  it("I6: a document with comments is the document without them", () => {
    fc.assert(fc.property(written, ({ json, text }) => void expect(read(text)).toEqual(json)));
    expect(() => parseJson(utf8("// no\n1"), "document", LIMITS)).toThrow(PolicyError);
  });

  it.each([
    ["a line that ends for an editor only", '// was:\r"audit": "written"', 7],
    ["a line separator in a comment", "// a\u2028b\n1", 4],
    ["a comment that is shown in another order", "/* \u202e */ 1", 3],
    ["a character that has no width", '{"a\u200b": 1}', 3],
    ["a byte order mark", "\ufeff1", 0],
    ["an escape sequence of a terminal", "// \u001b[1A\n1", 3],
    ["a comment without an end", "1 /* 2", 2],
    ["a comment of one slash", "[1, / 2]", 4],
    ["a trailing comma", "[1,]", 3],
    ["a trailing comma before a comment", '{"a": 1, // last\n}', 17],
  ])("I6: %s is refused, where it stands", (_, text, offset) => {
    expect(offsetOfError(text)).toBe(offset);
  });
});

describe("positions", () => {
  it("I10: every value is found where its text begins, and its name where that is", () => {
    fc.assert(
      fc.property(written, ({ json, text }) => {
        const positions = new JsonPositions();
        read(text, positions);
        const blanked = blankComments(text);
        for (const [path, held] of places(json)) {
          const start = JSON.stringify(held).slice(0, typeof held === "object" && held !== null ? 1 : undefined);
          const name = path.at(-1);
          const isNamed = typeof name === "string";
          const byName = isNamed && typeof held === "object" && held !== null && Object.keys(held).length > 0;
          expect(blanked.startsWith(byName ? JSON.stringify(name) : start, positions.offsetOf(path))).toBe(true);
          if (isNamed) expect(blanked.startsWith(JSON.stringify(name), positions.offsetOf(path, "name"))).toBe(true);
          expect([positions.has(path), positions.has([...path, "absent"])]).toEqual([true, false]);
          if (typeof held !== "object" || held === null)
            expect(positions.offsetOf([...path, "absent", 0])).toBe(positions.offsetOf(path));
        }
      }),
    );
  });

  it("I10: a line and a column lead back to the offset, whatever stands before it", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom("a", "\n", "\r\n", "\u00e9", "\u{1f600}") }),
        fc.nat(),
        (text, any) => {
          const offset = any % (text.length + 1);
          const { line, column } = new LineIndex(text).positionOf(offset);
          const before = text.split("\n").slice(0, line - 1);
          expect(before.reduce((sum, { length }) => sum + length + 1, 0) + column - 1).toBe(offset);
        },
      ),
    );
  });

  it.each([
    ["a key that is there twice", '{"a": 1,\n  "a": 2}', { line: 2, column: 3 }],
    ["a number that is not exact", "[1,\n\n9007199254740993]", { line: 3, column: 1 }],
    ["a string with half a surrogate", '["\\ud800"]', { line: 1, column: 2 }],
    ["an end that comes too early", '{"a":\n', { line: 2, column: 1 }],
    ["half a word", '{"a": tru}', { line: 1, column: 7 }],
    ["something behind the document", "{} // end\n{}", { line: 2, column: 1 }],
    ["seventeen levels", `\n${"[".repeat(18)}`, { line: 2, column: 18 }],
  ])("I6: %s is refused at its line and column", (_, text, position) => {
    expect(new LineIndex(text).positionOf(offsetOfError(text))).toEqual(position);
  });

  it("I10: a long name above many values costs no more than the text", () => {
    const text = `{${JSON.stringify("n".repeat(1 << 18))}: [${"1,".repeat(1 << 17)}1]}`;
    const positions = new JsonPositions();
    read(text, positions);
    expect(positions.offsetOf(["n".repeat(1 << 18), 1 << 17])).toBe(text.length - 3);
  });
});
