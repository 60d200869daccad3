import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { sha256 } from "../../policy/index.ts";
import {
  encodeLostRecord,
  encodeSlot,
  LOST_RECORD_BYTES,
  LOST_RECORD_OFFSET,
  type LostRecord,
  memoryMedium,
  parseLostRecord,
  STORE_SLOT_BYTES,
  Store,
} from "../../seal/index.ts";

const records: fc.Arbitrary<LostRecord> = fc.record({
  cause: fc.constantFrom("lost" as const, "breach" as const),
  reason: fc.string({ maxLength: 64 }).filter((text) => /^[ -~]*$/.test(text)),
});
const CHECKED = LOST_RECORD_BYTES - 32;

/** With the digest that belongs to it. */
function signed(bytes: Uint8Array): Uint8Array {
  const copy = bytes.slice();
  copy.set(sha256(copy.subarray(0, CHECKED)), CHECKED);
  return copy;
}

describe("the note of a lost agent", () => {
  test("I10: is read as it was written", () => {
    fc.assert(
      fc.property(records, (record) => {
        expect(parseLostRecord(encodeLostRecord(record))).toEqual(record);
      }),
    );
  });

  test("I10: with any bit changed, cut short or longer is none", () => {
    const whole = encodeLostRecord({ cause: "breach", reason: "the agent broke the protocol" });
    for (let bit = 0; bit < 8 * whole.length; bit += 1) {
      const changed = whole.slice();
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect([bit, parseLostRecord(changed)]).toEqual([bit, null]);
    }
    for (let length = 0; length < whole.length; length += 1)
      expect(parseLostRecord(whole.subarray(0, length))).toBeNull();
    expect(parseLostRecord(Uint8Array.of(...whole, 0))).toBeNull();
    expect(parseLostRecord(new Uint8Array(LOST_RECORD_BYTES))).toBeNull();
  });

  test.each([
    ["another version", 11, 2],
    ["a cause that no spawner has", 15, 12],
    ["a reason that is too long", 17, 65],
    ["a reason with a character that does not print", 18, 0x1b],
    ["bytes behind its reason", CHECKED - 1, 1],
  ])("I10: with %s is none, whatever its digest says", (_what, at, value) => {
    const changed = encodeLostRecord({ cause: "lost", reason: "the agent closed its socket" });
    changed[at] = value;
    expect(parseLostRecord(signed(changed))).toBeNull();
  });

  test("I11: has a place of its own in the first slot, which no content reaches", () => {
    const content = (size: number) => ({
      ekName: null,
      entries: [{ name: "a", generation: 1, state: "served" as const, package: new Uint8Array(size), imported: null }],
    });
    const overhead = encodeSlot(1n, content(0)).length;
    const most = Math.floor((LOST_RECORD_OFFSET - overhead) / 4) * 3;
    const medium = memoryMedium();
    medium.write(LOST_RECORD_OFFSET, encodeLostRecord({ cause: "lost", reason: "" }));
    const { store } = Store.open(medium);
    for (let writes = 0; writes < 3; writes += 1) store.write(content(most));
    expect(parseLostRecord(medium.read(LOST_RECORD_OFFSET, LOST_RECORD_BYTES))).not.toBeNull();
    expect(Store.open(medium).store.content.entries[0]?.package).toHaveLength(most);
    expect(() => store.write(content(most + 3))).toThrow(expect.objectContaining({ code: "ERR_STORE" }));
    expect(LOST_RECORD_OFFSET).toBeLessThan(STORE_SLOT_BYTES);
  });
});
