import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { celRecord, decodeCel, encodeCel, parseCel } from "../../attest/cel.ts";
import { readPlainCel } from "../../attest/cel-reader.ts";
import { type LaunchEventKind, launchEvent } from "../../attest/launch-events.ts";
import { AGENT_PCR, type CborValue, encodeCbor, IronclawError, utf8 } from "../../policy/index.ts";
import { servingEvents } from "../support/evidence-maker.ts";

const digest = new Uint8Array(32).fill(7);
const kinds: readonly LaunchEventKind[] = ["config", "environment", "shim-replaced", "cap"];
const events = fc.array(
  fc.record({
    kind: fc.constantFrom(...kinds),
    name: fc.oneof(fc.string({ maxLength: 20 }), fc.string({ unit: "grapheme", minLength: 20, maxLength: 400 })),
    sha256: fc.uint8Array({ minLength: 32, maxLength: 32 }),
  }),
  { maxLength: 30 },
);
const logOf = (list: readonly ReturnType<typeof launchEvent>[]) =>
  encodeCel(list.map((event, index) => celRecord(index, AGENT_PCR, event)));

/** A value, or what was wrong. */
function outcome(read: (bytes: Uint8Array) => unknown, bytes: Uint8Array): unknown {
  try {
    return read(bytes);
  } catch (error) {
    if (error instanceof IronclawError) return error.message;
    throw error;
  }
}

/** A record with another field in place of one of its own. */
function recordWith(changes: ReadonlyMap<number, CborValue>): Uint8Array {
  const { digests } = celRecord(0, AGENT_PCR, launchEvent("cap", "serving", digest));
  const entry = (algorithm: number, value: Uint8Array) =>
    new Map<number, CborValue>([
      [0, algorithm],
      [1, value],
    ]);
  const content = encodeCbor(
    new Map<string, CborValue>([
      ["kind", "cap"],
      ["name", "serving"],
      ["sha256", digest],
    ]),
  );
  const whole = new Map<number, CborValue>([
    [0, 0],
    [1, AGENT_PCR],
    [3, [entry(0x000b, digests.sha256), entry(0x000c, digests.sha384)]],
    [9, 200],
    [10, content],
  ]);
  return encodeCbor([new Map([...whole, ...changes])]);
}

describe("the agent's log", () => {
  it("I10: the one-pass reader takes every log that the encoder writes, and gives what the decoder gives", () => {
    fc.assert(
      fc.property(events, (list) => {
        const bytes = logOf(list);
        expect(readPlainCel(bytes, [])).not.toBeNull();
        expect(parseCel(bytes)).toEqual(decodeCel(bytes));
        expect(encodeCel(parseCel(bytes))).toEqual(bytes);
      }),
    );
    // Numbers and counts of one, two and three bytes.
    const many = logOf(Array.from({ length: 300 }, () => launchEvent("anchor", "x", digest)));
    expect(readPlainCel(many, [])?.rest).toHaveLength(300);
    expect(parseCel(many)).toEqual(decodeCel(many));
  });

  it("I10: of changed and cut logs the two readers say the same", () => {
    const valid = logOf(servingEvents());
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { maxLength: 2 }),
        fc.nat(3),
        (changes, cut) => {
          const bytes = valid.slice(0, valid.length - cut);
          for (const [at, byte] of changes) bytes[at] = byte;
          expect(outcome(parseCel, bytes)).toEqual(outcome(decodeCel, bytes));
        },
      ),
      { numRuns: 500 },
    );
    for (let length = 0; length < 600; length++)
      expect(outcome(parseCel, valid.subarray(0, length))).toEqual(outcome(decodeCel, valid.subarray(0, length)));
  });

  it.each<[string, ReadonlyMap<number, CborValue>]>([
    ["another number", new Map([[0, 1]])],
    ["another PCR", new Map([[1, 12]])],
    ["no digests", new Map([[3, []]])],
    ["another content type", new Map([[9, 201]])],
    ["content that is no event", new Map([[10, utf8("x")]])],
    ["a further field", new Map([[11, 0]])],
  ])("I9: a record with %s is refused, by its content and not by its form alone", (_title, changes) => {
    const bytes = recordWith(changes);
    expect(readPlainCel(bytes, [])).toBeNull();
    expect(() => parseCel(bytes)).toThrow(IronclawError);
    expect(parseCel(recordWith(new Map()))).toHaveLength(1);
  });

  it("I9: a digest that is not the content's is refused in either bank, though the form is right", () => {
    const valid = logOf(servingEvents());
    for (const { sha256, sha384 } of readPlainCel(valid, [])?.rest ?? []) {
      for (const part of [sha256, sha384]) {
        part[0] = (part[0] ?? 0) ^ 1;
        expect(readPlainCel(valid, [])).not.toBeNull();
        expect(() => parseCel(valid)).toThrow(/digest: expected/);
        part[0] ^= 1;
      }
    }
    expect(parseCel(valid)).toHaveLength(servingEvents().length);
  });

  it("I10: what was read does not change with the caller's buffer", () => {
    const bytes = logOf(servingEvents());
    const before = parseCel(bytes);
    const names = before.map(({ digests }) => [...digests.sha256]);
    bytes.fill(0);
    expect(before.map(({ digests }) => [...digests.sha256])).toEqual(names);
  });
});
