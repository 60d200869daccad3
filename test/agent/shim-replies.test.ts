import { openSync } from "node:fs";
import { Socket } from "node:net";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openShim } from "../../agent/shim-client.ts";
import { parseFrame } from "../../agent/shim-connection.ts";
import {
  KEY_FLAGS,
  parseFilters,
  parseKeys,
  parseLoaded,
  parseNothing,
  parseProbe,
  parseReady,
  parseSignature,
  parseStatus,
} from "../../agent/shim-replies.ts";
import { ByteWriter, IronclawError, utf8 } from "../../policy/index.ts";
import { native } from "../support/shim-fixture.ts";

const PARSERS = [
  parseFrame,
  parseFilters,
  parseKeys,
  parseLoaded,
  parseNothing,
  parseProbe,
  parseReady,
  parseSignature,
  parseStatus,
];

interface KeyFields {
  readonly handle: bigint;
  readonly known: number;
  readonly set: number;
  readonly id: Uint8Array;
  readonly label: string;
}

function encodeKey({ handle, known, set, id, label }: KeyFields): Uint8Array {
  const key = new ByteWriter().u64(handle).u64(3n).u64(0n).sized16(id).sized16(utf8(label)).u32(set).u32(known);
  return key
    .sized16(Uint8Array.of(1, 2))
    .sized16(Uint8Array.of(3))
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
          const { known = 0, set = 0 } = list[index] ?? {};
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

  test("I7: a key of another class, or with flags that the table does not have, is refused", () => {
    const good = new ByteWriter()
      .u16(1)
      .bytes(encodeKey({ handle: 1n, known: 1, set: 1, id: new Uint8Array(1), label: "k" }))
      .finish();
    expect(parseKeys(good)).toHaveLength(1);
    const secret = good.slice();
    secret[2 + 15] = 4;
    expect(() => parseKeys(secret)).toThrow(/KEYS class and flags/);
    for (const [set, known] of [
      [2, 1],
      [0, 0x1000],
    ] as const) {
      const bytes = new ByteWriter()
        .u16(1)
        .bytes(encodeKey({ handle: 1n, known, set, id: new Uint8Array(0), label: "" }))
        .finish();
      expect(() => parseKeys(bytes)).toThrow(/KEYS class and flags/);
    }
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
