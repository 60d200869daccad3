import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { encodeBundle, isNormalisedPath, parseBundle } from "../../policy/bundle.ts";
import { CABINET_SLOTS, encodeCabinet, openCabinet, type SlotName } from "../../policy/cabinet.ts";
import { PolicyError } from "../../policy/errors.ts";

const names = Object.keys(CABINET_SLOTS) as SlotName[];
const small = Object.fromEntries(names.map((name) => [name, 4096])) as Record<SlotName, number>;
const open = (bytes: Uint8Array) => openCabinet((offset, length) => bytes.subarray(offset, offset + length));
const slots = fc
  .dictionary(fc.constantFrom(...names), fc.uint8Array({ minLength: 1, maxLength: 4096 }))
  .map((record) => new Map(Object.entries(record) as [SlotName, Uint8Array][]));
const thrown = (act: () => unknown): unknown => {
  try {
    act();
  } catch (error) {
    return error;
  }
  return undefined;
};

describe("cabinet", () => {
  it("what was put in a slot comes out of it, and a slot that was not filled is null", () => {
    fc.assert(
      fc.property(slots, (content) => {
        const cabinet = open(encodeCabinet(content, small));
        for (const name of names) {
          const slot = cabinet.slot(name);
          expect(slot === null ? undefined : Array.from(slot.bytes)).toEqual(
            content.has(name) ? Array.from(content.get(name) ?? []) : undefined,
          );
        }
      }),
      { numRuns: 30 },
    );
  });

  it("any changed bit of the header is refused", () => {
    const whole = encodeCabinet(new Map([["policy", new Uint8Array([1, 2, 3])]]), small);
    fc.assert(
      fc.property(fc.nat(4096 * 8 - 1), (bit) => {
        const changed = whole.slice();
        changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        expect(thrown(() => open(changed))).toBeInstanceOf(PolicyError);
      }),
    );
  });

  it("any changed byte of a slot is refused by its digest", () => {
    const whole = encodeCabinet(new Map([["policy", new Uint8Array(100).fill(7)]]), small);
    whole[8192 + 50] = 8;
    expect(thrown(() => open(whole).slot("policy"))).toMatchObject({
      code: "ERR_CABINET_CHECKSUM",
    });
    expect(open(whole).slot("anchors")).toBeNull();
  });

  it("I10: random bytes and a short read end in a typed error", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 5000 }),
        (bytes) => void expect(thrown(() => open(bytes))).toBeInstanceOf(PolicyError),
      ),
    );
  });

  it("content larger than its slot is refused", () => {
    expect(() => encodeCabinet(new Map([["machine", new Uint8Array(4097)]]), small)).toThrow(/slot machine: length/);
  });

  it("the default layout is 41095168 bytes and the token slot starts where the document says", () => {
    const whole = encodeCabinet(new Map([["token", new Uint8Array([9])]]));
    expect(whole.length).toBe(41_095_168);
    expect(open(whole).slot("token")).toMatchObject({
      offset: 4096 + (32 + 3) * 1024 * 1024 + 2 * 65536,
      length: 1,
    });
  });
});

const component = fc.stringMatching(/^[a-z0-9._-]{1,12}$/).filter((part) => part !== "." && part !== "..");
const path = fc.array(component, { minLength: 1, maxLength: 4 }).map((parts) => `/${parts.join("/")}`);
const files = fc.dictionary(path, fc.uint8Array({ maxLength: 64 }), { maxKeys: 8 }).map((record) => {
  const paths = Object.keys(record);
  return Object.entries(record).filter(([own]) => !paths.some((other) => other.startsWith(`${own}/`)));
});

describe("bundle", () => {
  it("round trip: the entries come back sorted, with offsets that point at their content", () => {
    fc.assert(
      fc.property(files, (content) => {
        const bundle = encodeBundle(content);
        const entries = parseBundle(bundle);
        expect(new Map(entries.map((entry) => [entry.path, entry.bytes]))).toEqual(new Map(content));
        for (const entry of entries) {
          expect(bundle.subarray(entry.offset, entry.offset + entry.length)).toEqual(entry.bytes);
        }
        expect(encodeBundle(entries.map((entry) => [entry.path, entry.bytes]))).toEqual(bundle);
      }),
    );
  });

  it("I10: mutated bytes are refused with a typed error or encode back to themselves", () => {
    const bundle = encodeBundle([
      ["/lib/a.so", new Uint8Array(20)],
      ["/lib/b.so", new Uint8Array(3)],
      ["/etc/c", new Uint8Array(0)],
    ]);
    fc.assert(
      fc.property(fc.nat(bundle.length - 1), fc.nat(255), (at, value) => {
        const changed = bundle.slice();
        changed[at] = value;
        const error = thrown(() =>
          expect(encodeBundle(parseBundle(changed).map((e) => [e.path, e.bytes]))).toEqual(changed),
        );
        expect(error === undefined || error instanceof PolicyError).toBe(true);
      }),
    );
  });

  it.each(["", "/", "a", "/a/", "//a", "/a//b", "/a/../b", "/./a", "/a\u0000", "/é", "/a\n"])(
    "the path %j is refused",
    (bad) => {
      expect(isNormalisedPath(bad)).toBe(false);
      expect(thrown(() => encodeBundle([[bad, new Uint8Array(1)]]))).toMatchObject({ code: "ERR_CABINET_MALFORMED" });
    },
  );

  it("a path twice, and a file that is a directory of another, are refused", () => {
    const one = new Uint8Array(1);
    expect(
      thrown(() =>
        encodeBundle([
          ["/a", one],
          ["/a", one],
        ]),
      ),
    ).toMatchObject({ code: "ERR_CABINET_MALFORMED" });
    expect(
      thrown(() =>
        encodeBundle([
          ["/a", one],
          ["/a-", one],
          ["/a/b", one],
        ]),
      ),
    ).toMatchObject({ code: "ERR_CABINET_MALFORMED" });
  });

  it("trailing bytes are refused", () => {
    const bundle = encodeBundle([["/a", new Uint8Array(1)]]);
    expect(thrown(() => parseBundle(new Uint8Array([...bundle, 0])))).toMatchObject({ code: "ERR_BYTES_TRAILING" });
  });
});
