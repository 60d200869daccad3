import { openSync } from "node:fs";
import { Socket } from "node:net";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openShim } from "../../agent/shim-client.ts";
import { parseFrame } from "../../agent/shim-connection.ts";
import {
  KEY_FLAGS,
  parseFilters,
  parseHandle,
  parseKeys,
  parseLoaded,
  parseNothing,
  parsePlaintext,
  parseProbe,
  parseReady,
  parseSignature,
  parseStatus,
} from "../../agent/shim-replies.ts";
import { encodeUnwrap, encodeUses, type KeyUse, type UnwrapRequest } from "../../agent/shim-requests.ts";
import { ByteReader, ByteWriter, IronclawError, utf8 } from "../../policy/index.ts";
import { native } from "../support/shim-fixture.ts";

const PARSERS = [
  parseFrame,
  parseFilters,
  parseHandle,
  parseKeys,
  parseLoaded,
  parseNothing,
  parsePlaintext,
  parseProbe,
  parseReady,
  parseSignature,
  parseStatus,
];

interface KeyFields {
  readonly objectClass?: bigint;
  readonly handle: bigint;
  readonly known: number;
  readonly set: number;
  readonly id: Uint8Array;
  readonly label: string;
}

/** A private key has a modulus and an exponent, a secret one nothing. */
function encodeKey({ objectClass = 3n, handle, known, set, id, label }: KeyFields): Uint8Array {
  const key = new ByteWriter()
    .u64(handle)
    .u64(objectClass)
    .u64(0n)
    .sized16(id)
    .sized16(utf8(label))
    .u32(set)
    .u32(known);
  return key
    .sized16(objectClass === 4n ? new Uint8Array(0) : Uint8Array.of(1, 2))
    .sized16(objectClass === 4n ? new Uint8Array(0) : Uint8Array.of(3))
    .sized16(new Uint8Array(0))
    .sized16(new Uint8Array(0))
    .finish();
}

describe("replies of a shim", () => {
  test("I10: any bytes in place of a reply end in a value or a typed error", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        for (const parse of PARSERS) expectTyped(() => parse(bytes));
      }),
      { numRuns: 300 },
    );
  });

  test("I10: a list of keys reads back, and a damaged one ends in a typed error", () => {
    const keys = fc.array(
      fc
        .record({
          objectClass: fc.constantFrom(3n, 4n),
          handle: fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
          known: fc.nat({ max: 0xfff }),
          set: fc.nat({ max: 0xfff }),
          id: fc.uint8Array({ maxLength: 40 }),
          label: fc.string({ maxLength: 40 }),
        })
        .map((key) => ({ ...key, set: key.set & key.known, label: key.label.toWellFormed() })),
      { maxLength: 5 },
    );
    fc.assert(
      fc.property(keys, fc.nat(), fc.nat({ max: 255 }), (list, position, value) => {
        const bytes = list
          .reduce((writer, key) => writer.bytes(encodeKey(key)), new ByteWriter().u16(list.length))
          .finish();
        const back = parseKeys(bytes);
        expect(back.map(({ handle, id }) => ({ handle, id }))).toEqual(list.map(({ handle, id }) => ({ handle, id })));
        for (const [index, key] of back.entries()) {
          const { known = 0, set = 0, objectClass } = list[index] ?? {};
          expect(key.objectClass).toBe(objectClass === 4n ? "secret" : "private");
          expect(key.modulus.length).toBe(objectClass === 4n ? 0 : 2);
          for (const [bit, flag] of KEY_FLAGS.entries()) {
            expect(key.flags.get(flag)).toBe((known >> bit) & 1 ? ((set >> bit) & 1) === 1 : undefined);
          }
        }
        const damaged = bytes.slice();
        damaged[position % bytes.length] = value;
        expectTyped(() => parseKeys(damaged));
        expect(() => parseKeys(bytes.slice(0, -1))).toThrow(IronclawError);
      }),
      { numRuns: 100 },
    );
  });

  test("I7: an object of another class, a secret key with a public part, or flags that the table does not have are refused", () => {
    const one = { handle: 1n, known: 1, set: 1, id: new Uint8Array(1), label: "k" };
    const listOf = (key: KeyFields) => new ByteWriter().u16(1).bytes(encodeKey(key)).finish();
    const good = listOf(one);
    expect(parseKeys(good)).toMatchObject([{ objectClass: "private" }]);
    expect(parseKeys(listOf({ ...one, objectClass: 4n }))).toMatchObject([{ objectClass: "secret" }]);
    for (const objectClass of [0n, 1n, 2n, 5n, 3n + (1n << 32n)])
      expect(() => parseKeys(listOf({ ...one, objectClass }))).toThrow(/KEYS class/);
    const secret = good.slice();
    secret[2 + 15] = 4;
    expect(() => parseKeys(secret)).toThrow(/KEYS secret key/);
    for (const [set, known] of [
      [2, 1],
      [0, 0x1000],
    ] as const)
      expect(() => parseKeys(listOf({ ...one, set, known }))).toThrow(/KEYS flags/);
  });

  test("I10: results have bounds: a signature 1 to 8192 bytes, a plaintext 8192 at most, a handle 8 and not none", () => {
    for (const [length, signature, plaintext] of [
      [0, false, true],
      [1, true, true],
      [8192, true, true],
      [8193, false, false],
    ] as const) {
      const bytes = new Uint8Array(length);
      for (const [parse, good] of [
        [parseSignature, signature],
        [parsePlaintext, plaintext],
      ] as const) {
        if (good) expect(parse(bytes)).toEqual(bytes);
        else expect(() => parse(bytes)).toThrow(IronclawError);
      }
    }
    expect(parseHandle(new ByteWriter().u64(7n).finish())).toBe(7n);
    for (const bytes of [new Uint8Array(8), new Uint8Array(7).fill(1), new Uint8Array(9).fill(1)])
      expect(() => parseHandle(bytes)).toThrow(IronclawError);
  });
});

describe("requests to a shim", () => {
  test("I7: whatever is asked for, an unwrap says two classes, two uses, two places, and mechanisms once and in order", () => {
    const request: fc.Arbitrary<UnwrapRequest> = fc.record({
      slotId: fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
      handle: fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
      mechanism: fc.constantFrom(0x9n, 0x2109n, 0x210an),
      oaep: fc.constantFrom(null, { hash: 0x250n, mgf: 2n, label: Uint8Array.of(1, 2, 3) }),
      objectClass: fc.constantFrom("private" as const, "secret" as const),
      keyType: fc.bigInt({ min: 0n, max: 0xffffn }),
      use: fc.constantFrom("sign" as const, "decrypt" as const),
      where: fc.constantFrom("session" as const, "token" as const),
      allowedMechanisms: fc.array(fc.bigInt({ min: 0n, max: 9n }), { maxLength: 8 }),
      label: fc.string({ maxLength: 20 }).map((text) => text.toWellFormed()),
      id: fc.uint8Array({ maxLength: 20 }),
      wrapped: fc.uint8Array({ minLength: 1, maxLength: 100 }),
    });
    fc.assert(
      fc.property(request, (wanted) => {
        const reader = new ByteReader(encodeUnwrap(wanted), "UNWRAP");
        expect([reader.u64("slot"), reader.u64("handle"), reader.u64("mechanism")]).toEqual([
          ...[wanted.slotId, wanted.handle, wanted.mechanism],
        ]);
        expect(reader.u8("oaep")).toBe(wanted.oaep === null ? 0 : 1);
        if (wanted.oaep !== null) {
          expect([reader.u64("hash"), reader.u64("mgf")]).toEqual([0x250n, 2n]);
          expect(reader.sized16("label", 256)).toEqual(wanted.oaep.label);
        }
        expect(reader.u8("class")).toBe(wanted.objectClass === "private" ? 3 : 4);
        expect(reader.u64("type")).toBe(wanted.keyType);
        expect(reader.u8("use")).toBe(wanted.use === "sign" ? 1 : 2);
        expect(reader.u8("where")).toBe(wanted.where === "token" ? 1 : 0);
        const mechanisms = Array.from({ length: reader.u8("count") }, () => reader.u64("mechanism"));
        expect(mechanisms).toEqual([...new Set(wanted.allowedMechanisms)].sort((a, b) => (a < b ? -1 : 1)));
        expect(reader.sized16("label", 256)).toEqual(utf8(wanted.label));
        expect(reader.sized16("id", 256)).toEqual(wanted.id);
        expect(reader.sized32("wrapped", 16_384)).toEqual(wanted.wrapped);
        reader.end();
      }),
      { numRuns: 100 },
    );
  });

  test("I7: a use is one of three, and what is accepted beside it is said by name", () => {
    const of = (use: KeyUse["use"], accepts?: KeyUse["accepts"]) =>
      encodeUses([accepts === undefined ? { slotId: 1n, handle: 2n, use } : { slotId: 1n, handle: 2n, use, accepts }]);
    const last = (bytes: Uint8Array) => bytes.at(-1);
    expect(of("sign")).toEqual(new ByteWriter().u16(1).u64(1n).u64(2n).u8(1).finish());
    expect(last(of("decrypt"))).toBe(2);
    expect(last(of("unwrap", []))).toBe(3);
    expect(last(of("decrypt", ["padding-oracle"]))).toBe(0x42);
    expect(last(of("sign", ["raw-rsa", "raw-rsa"]))).toBe(0x81);
    expect(last(of("decrypt", ["raw-rsa", "padding-oracle"]))).toBe(0xc2);
    expect(encodeUses([])).toEqual(Uint8Array.of(0, 0));
  });
});

describe("a start that is no shim's", () => {
  const addon = native();
  const ready = new ByteWriter().u32(18).u32(0).u8(0x81).u64(0n).u32(7).u8(1).finish();

  /** Sends `bytes` as the first message, with `fds` descriptors, and gives what openShim made of it. */
  async function openWith(bytes: Uint8Array, fds: number): Promise<string> {
    const [ours, theirs] = addon.socketPair("stream");
    const send = Array.from({ length: fds }, () => openSync("/dev/null", "r"));
    const sent = addon.call(theirs, bytes, send, 64, 3_000).catch(() => null);
    const code = await openShim(ours, addon, { timeoutMs: 500 }).then(
      (shim) => {
        shim.close();
        return "opened";
      },
      (error: unknown) => (error instanceof IronclawError ? error.code : String(error)),
    );
    await sent;
    for (const fd of [...send, theirs]) addon.closeFd(fd);
    return code;
  }

  test("I10: READY opens only with one descriptor, nothing missing and nothing more", async () => {
    expect(await openWith(ready, 1)).toBe("opened");
    expect(await openWith(ready, 0)).toBe("ERR_SHIM_PROTOCOL");
    expect(await openWith(ready, 2)).toBe("ERR_SHIM_PROTOCOL");
    expect(await openWith(ready.slice(0, -1), 1)).toBe("ERR_SHIM_PROTOCOL");
    expect(await openWith(new Uint8Array([...ready, 0]), 1)).toBe("ERR_SHIM_PROTOCOL");
    const refused = ready.slice();
    refused[16] = 5;
    expect(await openWith(refused, 1)).toBe("ERR_SHIM_PROTOCOL");
  });

  test("I10: a reply with the wrong op or id, or without the reply bit, closes the connection", async () => {
    for (const [id, op, expected] of [
      [1, 0x88, "value"],
      [1, 0x87, "ERR_SHIM_PROTOCOL"],
      [2, 0x88, "ERR_SHIM_PROTOCOL"],
      [1, 0x08, "ERR_SHIM_PROTOCOL"],
    ] as const) {
      const [ours, theirs] = addon.socketPair("stream");
      const device = openSync("/dev/null", "r");
      const first = addon.call(theirs, ready, [device], 64, 5_000);
      const shim = await openShim(ours, addon, { timeoutMs: 3_000 });
      const answer = shim.status().then(
        () => "value",
        (error: unknown) => (error instanceof IronclawError ? error.code : String(error)),
      );
      expect((await first).bytes).toEqual(new ByteWriter().u32(5).u32(1).u8(8).finish());
      const peer = new Socket({ fd: theirs });
      peer.write(new ByteWriter().u32(21).u32(id).u8(op).u64(0n).u64(3n).finish());
      expect(await answer, `${id} ${op}`).toBe(expected);
      shim.close();
      peer.destroy();
      addon.closeFd(device);
    }
  });
});

function expectTyped(act: () => unknown): void {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(IronclawError);
  }
}
