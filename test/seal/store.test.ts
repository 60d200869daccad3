import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { concatBytes, sha256, toBase64, toHex, utf8 } from "../../policy/index.ts";
import { SealError } from "../../seal/errors.ts";
import {
  EMPTY_STORE,
  encodeSlot,
  LOST_RECORD_OFFSET,
  parseSlot,
  STORE_BYTES,
  STORE_SLOT_BYTES,
  Store,
  type StoreContent,
  type StoreEntry,
} from "../../seal/store.ts";
import { BLOCK, type Fault, FaultMedium } from "../support/fault-medium.ts";

const HEADER = 56;

function entry(name: string, generation: number, size = 100, state: StoreEntry["state"] = "served"): StoreEntry {
  const bytes = (fill: number) => new Uint8Array(size).map((_, at) => (fill + 31 * at) & 0xff);
  return { name, generation, state, package: bytes(generation), imported: bytes(generation + 7) };
}

/** Three slots of different sizes, of several blocks each. */
const EK_NAME = `000b${"a5".repeat(32)}`;
const OLD: StoreContent = { ekName: EK_NAME, entries: [entry("hsm-pin", 1, 1500)] };
const NEW: StoreContent = {
  ekName: EK_NAME,
  entries: [entry("hsm-pin", 1, 1500), entry("hsm-pin", 2, 2000, "pending")],
};
const LATER: StoreContent = { ekName: null, entries: [entry("tls-key", 3, 10)] };
/** Before the first write, after it, and with both slots used, the next write going to either. */
const HISTORIES: readonly (readonly [string, readonly StoreContent[]])[] = [
  ["an empty store", []],
  ["a store that was written once", [OLD]],
  ["a store that was written twice", [LATER, OLD]],
  ["a store that was written three times", [NEW, LATER, OLD]],
];

const disks = new Map<readonly StoreContent[], Uint8Array>();

function mediumAfter(history: readonly StoreContent[], fault: Fault | null = null): FaultMedium {
  const disk = disks.get(history) ?? diskAfter(history);
  disks.set(history, disk);
  return new FaultMedium(fault, disk.slice());
}

function diskAfter(history: readonly StoreContent[]): Uint8Array {
  const medium = new FaultMedium();
  const { store } = Store.open(medium);
  for (const content of history) store.write(content);
  return medium.read(0, STORE_BYTES);
}

/** Which of the contents it is: comparing byte for byte in a matcher takes a thousand times as long. */
const WHICH = new Map(Object.entries({ EMPTY_STORE, OLD, NEW, LATER }).map(([name, each]) => [idOf(each), name]));

function idOf(content: StoreContent): string {
  return toHex(sha256(encodeSlot(0n, content)));
}

const which = (content: StoreContent) => WHICH.get(idOf(content)) ?? "another content";

function opened(medium: FaultMedium): { readonly content: string; readonly damaged: boolean } {
  const { content, damaged } = Store.open(medium).opened;
  return { content: which(content), damaged };
}

/** Whatever happened: the old or the new content, no word of damage, and the next write is kept. */
function expectSound(medium: FaultMedium, old: StoreContent, what: string): void {
  const { store, opened: found } = Store.open(medium);
  expect(found.damaged, what).toBe(false);
  expect([which(old), "NEW"], what).toContain(which(found.content));
  store.write(LATER);
  expect(opened(medium.afterPowerCut()), what).toEqual({ content: "LATER", damaged: false });
}

/** Writes NEW with this fault and returns the medium as the next process finds it. */
function writeWith(history: readonly StoreContent[], fault: Fault): FaultMedium {
  const medium = mediumAfter(history, fault);
  const { store } = Store.open(medium);
  try {
    store.write(NEW);
  } catch (error) {
    expect(error).toBeInstanceOf(fault.kind === "crash" ? Error : SealError);
  }
  return medium;
}

/** Every place at which a write can be cut: each block, its first and last byte, and inside the header. */
function cuts(length: number): readonly number[] {
  const blocks = Array.from({ length: Math.ceil(length / BLOCK) }, (_, block) => block * BLOCK);
  const inside = [1, 8, 12, 20, 24, 55, HEADER, HEADER + 1, length - 1, length];
  return [...new Set([...blocks, ...inside])].filter((at) => at <= length).sort((a, b) => a - b);
}

const LENGTH = encodeSlot(1n, NEW).length;
const CALLS = (history: readonly StoreContent[]) => (history.length === 0 ? [0, 1, 2, 3] : [0, 1]);
const isWrite = (call: number) => call % 2 === 0;

describe.each(HISTORIES)("I11: writing to %s", (_what, history) => {
  const old = history.at(-1) ?? EMPTY_STORE;

  test("a crash at any byte of a write leaves the old content or the new, and the store can be written again", () => {
    for (const call of CALLS(history).filter(isWrite)) {
      for (const reaches of cuts(LENGTH)) {
        const medium = writeWith(history, { call, kind: "crash", code: "EIO", reaches });
        expectSound(medium.afterPowerCut(), old, `call ${call}, ${reaches} bytes`);
      }
    }
  });

  test("a crash at a random byte does", () => {
    fc.assert(
      fc.property(fc.constantFrom(...CALLS(history).filter(isWrite)), fc.nat(LENGTH), (call, reaches) => {
        const medium = writeWith(history, { call, kind: "crash", code: "EIO", reaches });
        expectSound(medium.afterPowerCut(), old, `call ${call}, ${reaches} bytes`);
      }),
      { numRuns: 10 },
    );
  });

  test("a crash before a flush with any of the blocks on the disk leaves the old content or the new", () => {
    for (const call of CALLS(history).filter((each) => !isWrite(each))) {
      const slots = Math.ceil(LENGTH / BLOCK) + 1;
      expect(slots).toBe(4);
      for (let subset = 0; subset < 2 ** slots; subset++) {
        const kept = (block: number) => ((subset >> (block % 128)) & 1) === 1;
        const medium = writeWith(history, { call, kind: "crash", code: "EIO", reaches: kept });
        expectSound(medium.afterPowerCut(), old, `call ${call}, blocks ${subset.toString(2)}`);
      }
    }
  });

  test.each(["EIO", "ENOSPC"] as const)(
    "%s of any call is ERR_STORE, in the old process and in the next one",
    (code) => {
      for (const call of CALLS(history)) {
        for (const reaches of isWrite(call) ? cuts(LENGTH) : [() => false, () => true]) {
          const medium = mediumAfter(history, { call, kind: "fails", code, reaches });
          const { store } = Store.open(medium);
          const write = () => store.write(NEW);
          expect(write).toThrow(SealError);
          expect([which(old), "NEW"]).toContain(which(store.content));
          // Now the medium is well again: the same process writes on.
          store.write(LATER);
          expect(which(store.content)).toBe("LATER");
          expect(opened(medium.afterPowerCut())).toEqual({ content: "LATER", damaged: false });
          expectSound(
            writeWith(history, { call, kind: "fails", code, reaches }).afterPowerCut(),
            old,
            `${code} ${call}`,
          );
        }
      }
    },
  );

  test("what a write that returned has written is there after a power cut that takes all that was not flushed", () => {
    const medium = mediumAfter(history);
    Store.open(medium).store.write(NEW);
    expect(medium.dirty).toEqual([]);
    expect(opened(medium.afterPowerCut())).toEqual({ content: "NEW", damaged: false });
  });
});

describe("reading", () => {
  const history = [LATER, OLD, NEW];
  const ONCE = [OLD];
  const both = (): FaultMedium => mediumAfter(history);
  const flip = (medium: FaultMedium, at: number) =>
    medium.write(
      at,
      medium.read(at, 1).map((byte) => byte ^ 1),
    );

  test("I11: with one slot damaged at any place the other one counts", () => {
    for (const slot of [0, 1]) {
      for (const at of cuts(LENGTH).filter((each) => each < LENGTH)) {
        const medium = both();
        flip(medium, slot * STORE_SLOT_BYTES + at);
        const { content, damaged } = opened(medium);
        expect(damaged).toBe(false);
        expect(["OLD", "NEW"]).toContain(content);
      }
    }
  });

  test("I11: after one write alone either slot may be damaged: the content is in both", () => {
    for (const slot of [0, 1]) {
      const medium = mediumAfter(ONCE);
      flip(medium, slot * STORE_SLOT_BYTES + HEADER);
      expect(opened(medium)).toEqual({ content: "OLD", damaged: false });
    }
  });

  test("I11: with both slots damaged the store says so, is empty, and can be written again", () => {
    const medium = both();
    for (const slot of [0, 1]) flip(medium, slot * STORE_SLOT_BYTES + HEADER + 3);
    const { store, opened: found } = Store.open(medium);
    expect(found).toEqual({ content: EMPTY_STORE, damaged: true });
    store.write(NEW);
    expect(opened(medium.afterPowerCut())).toEqual({ content: "NEW", damaged: false });
  });

  test("I11: a slot that somebody puts back shows as the older content; that it was newer once is not detected here", () => {
    const medium = new FaultMedium();
    const { store } = Store.open(medium);
    store.write(OLD);
    const earlier = medium.read(0, STORE_BYTES);
    store.write(NEW);
    const rolledBack = new FaultMedium(null, earlier);
    expect(opened(rolledBack)).toEqual({ content: "OLD", damaged: false });
  });

  test("I11: what a slot has behind its content does not count", () => {
    const medium = mediumAfter([NEW, NEW, LATER]);
    medium.write(HEADER + 2000, new Uint8Array(3000).fill(0xff));
    medium.write(STORE_SLOT_BYTES + LENGTH, new Uint8Array(3000).fill(0xff));
    expect(opened(medium)).toEqual({ content: "LATER", damaged: false });
  });

  test("a medium that is too small, or cannot be read, is ERR_STORE", () => {
    const failing = { read: () => raise("EIO"), write: () => undefined, flush: () => undefined };
    expect(() => Store.open(failing)).toThrow(expect.objectContaining({ code: "ERR_STORE", got: "EIO" }));
  });

  function raise(code: string): never {
    throw Object.assign(new Error(code), { code });
  }
});

describe("the format", () => {
  const bytes = fc.uint8Array({ maxLength: 40 });
  const name = fc.stringMatching(/^[a-z0-9-]{1,32}$/);
  const content: fc.Arbitrary<StoreContent> = fc
    .record({
      ekName: fc.option(fc.constantFrom(EK_NAME, `000c${"5a".repeat(48)}`)),
      each: fc.uniqueArray(
        fc.record({
          name,
          generation: fc.integer({ min: 1, max: 2 ** 32 - 2 }),
          package: bytes,
          imported: fc.option(bytes),
        }),
        { selector: (each) => each.name, maxLength: 6 },
      ),
      twice: fc.boolean(),
    })
    .map(({ ekName, each, twice }) => ({
      ekName,
      entries: each
        .toSorted((a, b) => (a.name < b.name ? -1 : 1))
        .flatMap((one): StoreEntry[] => [
          { ...one, state: "served" },
          ...(twice ? [{ ...one, generation: one.generation + 1, state: "pending" } as const] : []),
        ]),
    }));

  test("I10: what is written is read, and it has one encoding", () => {
    fc.assert(
      fc.property(content, fc.bigInt(1n, 2n ** 64n - 1n), (value, sequence) => {
        const slot = encodeSlot(sequence, value);
        expect(parseSlot(slot)).toEqual({ sequence, content: value });
      }),
    );
  });

  test("I10: any bytes and any mutation are no slot, or the slot they encode", () => {
    const good = encodeSlot(7n, NEW);
    const mutated = fc.tuple(fc.nat(good.length - 1), fc.nat(255)).map(([at, to]) => good.with(at, to));
    fc.assert(
      fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 200 })), (input) => {
        const slot = parseSlot(input);
        if (slot !== null) expect(encodeSlot(slot.sequence, slot.content)).toEqual(input);
      }),
      { numRuns: 300 },
    );
  });

  /** A slot with a right checksum around any content. */
  function slotOf(body: Uint8Array, length = body.length): Uint8Array {
    const head = concatBytes(utf8("IRONSTOR"), Uint8Array.of(0, 0, 0, 1), new Uint8Array(8).fill(1), word(length));
    return concatBytes(head, sha256(concatBytes(head, body)), body);
  }
  const word = (value: number) => Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);

  test("I10: content that is not the one encoding, or breaks a rule, is no slot though its checksum is right", () => {
    const json = (entries: unknown, ekName: unknown = null) => utf8(JSON.stringify({ ekName, entries }));
    const one = { name: "a", generation: 1, state: "served", package: toBase64(utf8("p")), imported: null };
    expect(parseSlot(slotOf(json([one])))).not.toBe(null);
    const refused = [
      json([one, one]),
      json([{ ...one, generation: 2 }, one]),
      json([{ ...one, name: "b" }, one]),
      json([one, { ...one, generation: 2 }]), // two that serve
      json([{ ...one, generation: 0 }]),
      json([{ ...one, name: "A" }]),
      json([{ ...one, state: "old" }]),
      json([{ ...one, package: "!" }]),
      json([{ ...one, extra: 1 }]),
      json([one], "00"),
      concatBytes(json([one]), utf8(" ")),
      utf8("{}"),
      new Uint8Array(),
    ];
    for (const body of refused) expect(parseSlot(slotOf(body)), new TextDecoder().decode(body)).toBe(null);
    expect(parseSlot(slotOf(json([one]), 2 ** 31))).toBe(null);
  });

  test("I11: a store takes content up to the place that is kept behind it, and refuses one byte more before anything is written", () => {
    const overhead = encodeSlot(1n, { ekName: null, entries: [entryOf(0)] }).length;
    // base64: three bytes are four characters, and the imported area tunes the rest.
    const room = LOST_RECORD_OFFSET - overhead;
    const size = Math.floor(room / 4) * 3;
    const medium = mediumAfter([OLD]);
    const { store } = Store.open(medium);
    expect(encodeSlot(1n, { ekName: null, entries: [entryOf(size)] }).length).toBeGreaterThan(LOST_RECORD_OFFSET - 4);
    store.write({ ekName: null, entries: [entryOf(size)] });
    expect(Store.open(medium.afterPowerCut()).opened.content.entries[0]?.package).toHaveLength(size);
    const calls = medium.calls;
    const write = () => store.write({ ekName: null, entries: [entryOf(size + 3)] });
    expect(write).toThrow(expect.objectContaining({ code: "ERR_STORE" }));
    expect(medium.calls).toBe(calls);
    expect(store.content.entries[0]?.package).toHaveLength(size);
  });

  function entryOf(size: number): StoreEntry {
    return { name: "a", generation: 1, state: "served", package: new Uint8Array(size), imported: null };
  }

  test("I10: content that no reader takes is ERR_STORE, before anything is written", () => {
    const medium = mediumAfter([OLD]);
    const { store } = Store.open(medium);
    const calls = medium.calls;
    for (const entries of [[entry("HSM", 1)], [entry("a", 1), entry("a", 2)], [entry("b", 1), entry("a", 1)]])
      expect(() => store.write({ ekName: null, entries })).toThrow(expect.objectContaining({ code: "ERR_STORE" }));
    expect(medium.calls).toBe(calls);
  });
});
