import fc from "fast-check";
import { expect } from "vitest";
import { IronclawError, toHex } from "../../policy/index.ts";

/** Some bytes of a valid sample changed, some cut off its end. */
export function damaged(sample: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Uint8Array> {
  const edits = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 3 });
  return fc.tuple(sample, edits, fc.constantFrom(0, 0, 0, 1, 2)).map(([valid, changes, cut]) => {
    const bytes = valid.slice(0, Math.max(0, valid.length - cut));
    for (const [at, value] of changes) if (bytes.length > 0) bytes[at % bytes.length] = value;
    return bytes;
  });
}

/** A value, or one of the project's errors. */
export function expectTyped(parse: () => unknown): void {
  try {
    parse();
  } catch (error) {
    if (!(error instanceof IronclawError)) throw error;
  }
}

/** encode(parse(b)) = b for whatever bytes are accepted; all others end in a typed error. */
export function expectTypedOrSame(
  again: (bytes: Uint8Array) => Uint8Array,
  sample: fc.Arbitrary<Uint8Array>,
  numRuns = 400,
): void {
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), damaged(sample), sample), (bytes) => {
      let encoded: Uint8Array;
      try {
        encoded = again(bytes);
      } catch (error) {
        if (!(error instanceof IronclawError)) throw error;
        return;
      }
      expect(toHex(encoded)).toBe(toHex(bytes));
    }),
    { numRuns },
  );
}
