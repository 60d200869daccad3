import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { printableJson, printableLine, printableText } from "../../policy/index.ts";

/** Escape, bidi override, Arabic letter mark, zero-width joiner, soft hyphen, a tag character beyond the first plane, line separator. */
const hidden = ["\u001b", "\u202e", "\u061c", "\u200d", "\u00ad", "\u{e0041}", "\u2028", "\u0000", "\u009b"];

describe("text for a terminal", () => {
  it.each(hidden)("I10: does not hold %j", (character) => {
    expect(printableLine(`a${character}b`)).toBe("a?b");
    expect(printableText(`a${character}\nb`)).toBe("a?\nb");
    expect(printableJson(JSON.stringify(`a${character}b`))).not.toContain(character);
  });

  it("keeps letters of every language, and on a line no line feed", () => {
    const text = "Größe 大きさ حجم \u{1f512}";
    expect(printableLine(text)).toBe(text);
    expect(printableLine("a\nb")).toBe("a?b");
  });

  it("I10: JSON holds the same after parsing, whatever is in it", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (value) => {
        const json = printableJson(JSON.stringify({ value }, null, 2));
        expect(JSON.parse(json)).toEqual({ value });
        expect(printableText(json)).toBe(json);
      }),
    );
  });
});
