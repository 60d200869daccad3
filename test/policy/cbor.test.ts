import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fromHex, toHex, utf8 } from "../../policy/bytes.ts";
import { type CborValue, decodeCbor, defaultCborLimits, encodeCbor } from "../../policy/cbor.ts";
import { PolicyError } from "../../policy/errors.ts";
import { hostileCbor } from "../support/hostile-cbor.ts";

const wholeNumber = fc
  .bigInt({ min: -(1n << 64n), max: (1n << 64n) - 1n })
  .map((value) => (Number.isSafeInteger(Number(value)) ? Number(value) : value));
const text = fc.string({ unit: "grapheme", maxLength: 12 });

const anyValue: fc.Arbitrary<CborValue> = fc.letrec<{ value: CborValue }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 5 },
    wholeNumber,
    fc.integer(),
    text,
    fc.boolean(),
    fc.constant(null),
    fc.uint8Array({ maxLength: 40 }),
    fc.array(tie("value"), { maxLength: 5 }),
    fc
      .uniqueArray(fc.tuple(fc.oneof(fc.integer(), text), tie("value")), {
        maxLength: 5,
        selector: ([key]) => key,
      })
      .map((entries) => new Map(entries)),
    fc.record({ tag: fc.constant(601 as const), value: tie("value") }),
  ),
})).value;

function refusal(bytes: Uint8Array, limits = defaultCborLimits): PolicyError {
  try {
    decodeCbor(bytes, limits);
  } catch (error) {
    if (error instanceof PolicyError) return error;
    throw error;
  }
  throw new Error("accepted");
}

describe("canonical CBOR", () => {
  it("I10: every value decodes back from its encoding", () => {
    fc.assert(
      fc.property(anyValue, (value) => {
        const bytes = encodeCbor(value);
        expect(toHex(encodeCbor(decodeCbor(bytes)))).toBe(toHex(bytes));
        expect(decodeCbor(bytes)).toEqual(value);
      }),
    );
  });

  it("I10: a list that is longer than an argument list may be goes there and back", () => {
    const list = Array.from({ length: 200_000 }, (_, index) => index);
    const limits = { ...defaultCborLimits, items: 300_000 };
    expect(decodeCbor(encodeCbor(list), limits)).toEqual(list);
  });

  it("I10: whatever bytes are accepted are the one encoding of their value", () => {
    const mutated = fc
      .tuple(anyValue, fc.nat(), fc.integer({ min: 0, max: 255 }))
      .map(([value, at, byte]) => encodeCbor(value).map((old, index, all) => (index === at % all.length ? byte : old)));
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated), (bytes) => {
        try {
          expect(toHex(encodeCbor(decodeCbor(bytes)))).toBe(toHex(bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(PolicyError);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it.each([
    ["01", 1],
    ["1817", null],
    ["1818", 24],
    ["190100", 256],
    ["1900ff", null],
    ["1b0020000000000000", 9007199254740992n],
    ["3903e7", -1000],
    ["3b001ffffffffffffe", Number.MIN_SAFE_INTEGER],
    ["3b001fffffffffffff", -9007199254740992n],
    ["1b001fffffffffffff", Number.MAX_SAFE_INTEGER],
    ["3bffffffffffffffff", -18446744073709551616n],
    ["f97e00", null],
    ["fb3ff0000000000000", null],
    ["f7", null],
    ["f0", null],
    ["c249010000000000000000", null],
    ["d81c01", null],
    ["c074323031332d30332d32315432303a30343a30305a", null],
    ["5f42010243030405ff", null],
    ["7f61616161ff", null],
    ["9fff", null],
    ["bfff", null],
    ["a20101", null],
    ["a201010102", null],
    ["a202010101", null],
    ["a141ff01", null],
    ["a1810101", null],
    ["61ff", null],
    ["63eda080", null],
    ["0000", null],
    ["", null],
    ["5bffffffffffffffff", null],
    ["9bffffffffffffffff", null],
    ["bb7fffffffffffffff", null],
    ["1c", null],
    ["ff", null],
  ])("I10: %s is %s or a typed error", (hex, value) => {
    if (value === null) expect(refusal(fromHex(hex)).code).toBe("ERR_CBOR_MALFORMED");
    else expect(decodeCbor(fromHex(hex))).toBe(value);
  });

  it("I10: sixteen levels are accepted and seventeen are refused", () => {
    const nested = (depth: number) =>
      Uint8Array.from({ length: depth + 1 }, (_, index) => (index < depth ? 0x81 : 0x00));
    expect(decodeCbor(nested(16))).toBeInstanceOf(Array);
    expect(refusal(nested(17)).message).toContain("depth");
    expect(refusal(nested(100_000)).message).toContain("depth");
  });

  it("I10: 1 MiB of hostile CBOR ends in a typed error", () => {
    const size = 1 << 20;
    const fills = [0x00, 0x81, 0xa1, 0x60, 0xf6, 0xd9, 0x9b, 0xbb, 0xc2, 0xff];
    for (const fill of fills) expect(refusal(new Uint8Array(size).fill(fill)).code).toBe("ERR_CBOR_MALFORMED");
    const wideArray = new Uint8Array(size);
    wideArray.set(fromHex("9a000ffffb"));
    expect(refusal(wideArray).message).toContain("items");
    const bignum = new Uint8Array(size);
    bignum.set(fromHex("c25a000ffff0"));
    expect(refusal(bignum).message).toContain("tag");
    expect(refusal(new Uint8Array((4 << 20) + 1)).message).toContain("size");
  });

  it.each(hostileCbor())("I10: $name: refused $refused", ({ bytes, refused }) => {
    expect(bytes.length).toBeLessThanOrEqual(1 << 20);
    if (refused === null) expect(encodeCbor(decodeCbor(bytes))).toEqual(bytes);
    else expect(refusal(bytes).message).toContain(`cbor ${refused} at offset`);
  });

  it("I10: the item that is one too many is where reading stops, however much follows", () => {
    for (const items of [1, 2, 24, 1000]) {
      for (const fill of [0x00, 0x40, 0x60, 0x80, 0xa0]) {
        const input = new Uint8Array(1 << 16).fill(fill);
        input.set(fromHex("99fff0"));
        // The array is an item itself, its head has three bytes, and each item one.
        expect(refusal(input, { ...defaultCborLimits, items }).message).toContain(`items at offset ${3 + items - 1}:`);
      }
    }
  });

  it("I10: a text is what a strict UTF-8 decoder reads, or refused as that refuses it", () => {
    const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    const lead = fc.constantFrom(0x41, 0xc0, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff);
    const trail = fc.constantFrom(0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbb, 0xbf, 0x7f, 0xc0);
    const mixed = fc.array(fc.oneof(lead, trail, fc.integer({ min: 0, max: 255 })), { maxLength: 20 });
    const valid = fc.string({ unit: "binary", maxLength: 5, size: "max" }).map((value) => [...utf8(value)]);
    fc.assert(
      fc.property(fc.oneof(mixed, valid), (content) => {
        const input = Uint8Array.from([0x60 + content.length, ...content]);
        let expected: string | null;
        try {
          expected = strict.decode(Uint8Array.from(content));
        } catch {
          expected = null;
        }
        if (expected === null) expect(refusal(input).message).toContain("cbor text at offset 0");
        else expect(decodeCbor(input)).toBe(expected);
      }),
      { numRuns: 5000 },
    );
  });

  it("keys are sorted by their encoded bytes, whatever order they were put in", () => {
    const map = new Map<string | number, CborValue>([
      ["b", 1],
      [-1, 2],
      [100, 3],
      [10, 4],
      ["aa", 5],
    ]);
    expect(toHex(encodeCbor(map))).toBe("a50a0418640320026162016261610 5".replaceAll(" ", ""));
  });

  it("a value without a place in the encoding is a bug of the caller", () => {
    for (const value of [
      1.5,
      Number.NaN,
      1n << 64n,
      -(1n << 64n) - 1n,
      "\ud800",
      undefined,
      new Map([
        [1, 1],
        [1n as unknown as number, 2],
      ]),
      new Map([[true as unknown as number, 1]]),
    ]) {
      expect(() => encodeCbor(value as CborValue)).toThrow(TypeError);
    }
  });
});
