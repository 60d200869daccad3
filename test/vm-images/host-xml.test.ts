import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ImageError } from "../../vm-images/errors.ts";
import { readHostConfiguration } from "../../vm-images/host/index.ts";
import { parseXml, type XmlElement } from "../../vm-images/host/xml.ts";
import { GOOD, thrown } from "../support/host-configurations.ts";

describe("the XML reader", () => {
  const name = fc.stringMatching(/^[a-z][a-z0-9-]{0,8}$/);
  const { element } = fc.letrec<{ element: XmlElement }>((tie) => ({
    element: fc.record({
      name,
      attributes: fc
        .dictionary(name, fc.string({ unit: "grapheme", maxLength: 8 }))
        .map((each) => new Map(Object.entries(each))),
      children: fc.oneof({ maxDepth: 4 }, fc.constant([]), fc.array(tie("element"), { maxLength: 3 })),
      text: fc.string({ unit: "grapheme", maxLength: 8 }),
    }),
  }));
  const encode = (text: string) =>
    text.replaceAll(/[^ !#-%(-;=?-~]/gu, (character) => `&#${character.codePointAt(0)};`);
  const write = ({ name: own, attributes, children, text }: XmlElement): string =>
    `<${own}${[...attributes].map(([key, value]) => ` ${key}='${encode(value)}'`).join("")}>${encode(text)}<!-- - -->${children.map(write).join("")}</${own} >`;

  it("I10: what was written comes out, whatever its names and values", () => {
    fc.assert(
      fc.property(element, (made) => {
        expect(parseXml(write(made))).toEqual(made);
      }),
    );
  });

  it("I10: a changed or cut text ends in a typed error or an element", () => {
    fc.assert(
      fc.property(
        fc.nat(GOOD.length - 1),
        fc.constantFrom("", "<", ">", "&", "'", "x", "\0"),
        fc.boolean(),
        (at, character, cut) => {
          const text = GOOD.slice(0, at) + character + (cut ? "" : GOOD.slice(at + 1));
          const error = thrown(() => readHostConfiguration(text));
          expect(error === undefined || error instanceof ImageError).toBe(true);
        },
      ),
      { numRuns: 500 },
    );
  });
});
