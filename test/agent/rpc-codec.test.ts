import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type AttributeValue, CKA, readAttributes, writeAttribute } from "../../agent/p11kit/attributes.ts";
import { CALLS, callNamed } from "../../agent/p11kit/calls.ts";
import { ArgumentReader, encodeByteArray, encodeFixedText, encodeUlongArray } from "../../agent/p11kit/codec.ts";
import {
  encodeErrorReply,
  encodeReply,
  FrameSplitter,
  MAX_BODY,
  MAX_OPTIONS,
  parseCallBody,
  ReceiveMemory,
} from "../../agent/p11kit/frame.ts";
import { ByteReader, ByteWriter, concatBytes, fromHex, IronclawError, toHex, utf8 } from "../../policy/index.ts";
import { byteArray, INITIALIZE_VALUES, rawFrame, requestFrame, u32, ulongs } from "../support/rpc-client.ts";

function typedOrValue(action: () => unknown): void {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(IronclawError);
  }
}

describe("frames", () => {
  it("I6: requests and replies have the bytes that the stock peers exchange", () => {
    const initialize = `000000100000000600000042636c69656e740000000100000005${toHex(utf8("ayyay"))}`;
    const handshake = toHex(utf8("PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"));
    expect(toHex(requestFrame(0x10, "C_Initialize", INITIALIZE_VALUES))).toBe(
      `${initialize}0100000029${handshake}00010000000100`,
    );
    expect(toHex(encodeReply(0x10, 1, "", new Uint8Array()))).toBe("0000001000000000000000080000000100000000");
    expect(toHex(encodeReply(0x11, 4, "au", encodeUlongArray([0x11n], null)))).toBe(
      "00000011000000000000000f000000040000000261750000000001",
    );
    expect(toHex(encodeErrorReply(0x12, 0x54n))).toBe("0000001200000000000000110000000000000001750000000000000054");
  });

  it("I10: a stream cut anywhere gives the same frames", () => {
    const frames = [
      requestFrame(1, "C_Initialize", INITIALIZE_VALUES),
      requestFrame(2, "C_GetInfo"),
      requestFrame(3, "C_Finalize"),
    ];
    const stream = concatBytes(Uint8Array.of(2), ...frames);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 60 }), (sizes) => {
        const splitter = new FrameSplitter();
        const codes: number[] = [];
        let version: number | null = null;
        let at = 0;
        for (const size of [...sizes, stream.length]) {
          splitter.push(stream.slice(at, at + size));
          at += size;
          version ??= splitter.version();
          for (let frame = splitter.next(); frame !== null; frame = splitter.next()) codes.push(frame.code);
        }
        expect([version, ...codes]).toEqual([2, 1, 2, 3]);
      }),
    );
  });

  it.each([
    [
      "options beyond the limit",
      new ByteWriter()
        .u32(1)
        .u32(MAX_OPTIONS + 1)
        .u32(0)
        .finish(),
    ],
    [
      "a body beyond the limit",
      new ByteWriter()
        .u32(1)
        .u32(0)
        .u32(MAX_BODY + 1)
        .finish(),
    ],
    ["a body of 4 GiB", new ByteWriter().u32(1).u32(0).u32(0xffff_ffff).finish()],
    ["code 0", new ByteWriter().u32(0).u32(0).u32(8).finish()],
  ])("I10: a header with %s is refused at once", (_what, header) => {
    const splitter = new FrameSplitter();
    splitter.push(header);
    expect(() => splitter.next()).toThrow(IronclawError);
  });

  it("I4: nothing of a request that was taken is left behind in what it came in", () => {
    const pin = utf8("a PIN that an application sends");
    const [first, second] = [rawFrame(1, pin), rawFrame(2, pin)];
    const pieces = [concatBytes(first, second.slice(0, 20)), second.slice(20)];
    const splitter = new FrameSplitter();
    const taken = pieces.flatMap((piece) => {
      splitter.push(piece);
      const frames = [splitter.next(), splitter.next()];
      return frames.flatMap((frame) => (frame === null ? [] : [new TextDecoder().decode(frame.body)]));
    });
    expect(taken).toEqual(Array(2).fill(new TextDecoder().decode(pin)));
    for (const piece of pieces.slice(0, 1)) expect(new TextDecoder("latin1").decode(piece)).not.toContain("a PIN");
  });

  it("I10: the connections of a scope hold a limited number of bytes, and give back what is answered", () => {
    const memory = new ReceiveMemory(4000);
    const [first, second] = [new FrameSplitter(MAX_BODY, memory), new FrameSplitter(MAX_BODY, memory)];
    const frame = rawFrame(1, new Uint8Array(1000));
    first.push(frame.slice(0, 900));
    second.push(frame.slice(0, 900));
    expect(() => second.push(frame.slice(900).fill(1))).not.toThrow();
    expect(() => first.push(new Uint8Array(1500))).toThrow(IronclawError);
    expect(second.next()?.code).toBe(1);
    expect(second.next()).toBeNull();
    second.push(frame.slice(0, 1000));
    first.close();
    second.close();
    new FrameSplitter(MAX_BODY, memory).push(new Uint8Array(2000));
  });

  it("I10: random bytes are frames, nothing yet, or a typed refusal", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const splitter = new FrameSplitter();
        splitter.push(bytes);
        typedOrValue(() => splitter.next());
        typedOrValue(() => parseCallBody(bytes));
      }),
    );
  });
});

describe("call table", () => {
  it("I6: has the 89 calls with their numbers", () => {
    expect(CALLS.size).toBe(89);
    const ids = {
      C_Initialize: 1,
      C_GetTokenInfo: 6,
      C_GetAttributeValue: 24,
      C_SignInit: 42,
      C_SignFinal: 45,
      C_WrapKey: 60,
    };
    for (const [name, id] of Object.entries(ids)) expect(callNamed(name).id).toBe(id);
    expect([
      callNamed("C_GenerateRandom").id,
      callNamed("C_WaitForSlotEvent").id,
      callNamed("C_DeriveKey2").id,
    ]).toEqual([64, 65, 89]);
    expect(callNamed("C_GetTokenInfo").response).toBe("ssssuuuuuuuuuuuvvs");
  });
});

describe("arguments", () => {
  const reader = (version: number, ...values: Uint8Array[]) => new ArgumentReader(concatBytes(...values), version);
  const pss = ulongs(0x250n, 2n, 32n);
  const noParameter = u32(0xffff_ffff);

  it("I10: a NULL byte array takes its length with it", () => {
    const args = reader(0, Uint8Array.of(0), u32(7), byteArray(Uint8Array.of(1)));
    expect(args.byteArray("pin")).toEqual({ kind: "null", length: 7 });
    expect(args.byteArray("data")).toEqual({ kind: "bytes", bytes: Uint8Array.of(1) });
    args.end();
  });

  it("I10: room 0 is a length query, and 0xffffffff a buffer of length 0 for which nothing is allocated", () => {
    expect([reader(0, u32(0)).room("x"), reader(0, u32(0xffff_ffff)).room("x"), reader(0, u32(64)).room("x")]).toEqual([
      null,
      0,
      64,
    ]);
  });

  it.each([
    ["version 0, no parameters", 0, concatBytes(u32(0x1041), noParameter), { kind: "none" }],
    ["version 1, PSS", 1, concatBytes(u32(0xd), pss), { kind: "pss", hash: 0x250n, mgf: 2n, saltLength: 32n }],
    ["version 2, no parameters", 2, u32(0x1041), { kind: "none" }],
    [
      "version 2, PSS",
      2,
      concatBytes(u32(0xd), Uint8Array.of(1), pss),
      { kind: "pss", hash: 0x250n, mgf: 2n, saltLength: 32n },
    ],
    ["version 2, PSS without parameters", 2, concatBytes(u32(0xd), Uint8Array.of(0)), { kind: "none" }],
    [
      "version 0, parameters where there are none",
      0,
      concatBytes(u32(0x1041), u32(1), Uint8Array.of(9)),
      { kind: "opaque" },
    ],
    ["version 2, a mechanism of unknown form", 2, concatBytes(u32(0x1087), new Uint8Array(40)), { kind: "opaque" }],
  ])("I6: a mechanism is read by the answered version: %s", (_what, version, mechanism, parameters) => {
    const args = reader(version, mechanism, ulongs(5n));
    expect(args.mechanismAndKey()).toMatchObject({ kind: "start", parameters, key: 5n });
    args.end();
  });

  it("I6: the NULL mechanism cancels", () => {
    expect(reader(2, u32(0xffff_ffff), ulongs(0n)).mechanismAndKey()).toEqual({ kind: "cancel" });
  });

  it("I10: random arguments are values or typed refusals", () => {
    const read: ((args: ArgumentReader) => unknown)[] = [
      (args) => args.byteArray("x"),
      (args) => args.attributes(),
      (args) => args.attributeQueries(),
      (args) => args.mechanismAndKey(),
      (args) => [args.byte("x"), args.ulong("x"), args.room("x"), args.end()],
    ];
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), fc.nat(2), fc.constantFrom(...read), (bytes, version, one) => {
        typedOrValue(() => one(new ArgumentReader(bytes, version)));
      }),
      { numRuns: 1000 },
    );
  });
});

describe("attributes", () => {
  const value = fc.oneof(
    fc.record({
      type: fc.constantFrom(CKA.TOKEN, CKA.SIGN),
      value: fc.record({ kind: fc.constant("byte" as const), value: fc.nat(255) }),
    }),
    fc.record({
      type: fc.constantFrom(CKA.CLASS, CKA.KEY_TYPE),
      value: fc.record({ kind: fc.constant("ulong" as const), value: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }) }),
    }),
    fc.record({
      type: fc.constantFrom(CKA.LABEL, CKA.ID, 0x8000_0001, CKA.DESTROYABLE),
      value: fc.record({ kind: fc.constant("bytes" as const), value: fc.uint8Array({ maxLength: 50 }) }),
    }),
    fc.record({ type: fc.constant(CKA.LABEL), value: fc.constant(null) }),
  );

  it("I10: what is written is read back", () => {
    fc.assert(
      fc.property(fc.array(value, { maxLength: 64 }), (attributes) => {
        const writer = new ByteWriter().u32(attributes.length);
        for (const attribute of attributes)
          writeAttribute(writer, attribute.type, attribute.value as AttributeValue | null, false);
        const reader = new ByteReader(writer.finish(), "attributes");
        expect(readAttributes(reader)).toEqual(attributes);
        reader.end();
      }),
    );
  });

  it("I10: more than 64 attributes, also nested ones, and more than 8 levels are refused", () => {
    const label = concatBytes(u32(CKA.LABEL), Uint8Array.of(0));
    const list = (count: number, ...items: Uint8Array[]) => concatBytes(u32(count), ...items);
    const array = (native: number, inner: Uint8Array) =>
      concatBytes(u32(0x4000_0211), Uint8Array.of(1), u32(native), inner);
    const read = (bytes: Uint8Array) => new ArgumentReader(bytes, 1).attributes();
    expect(read(list(64, ...Array.from({ length: 64 }, () => label)))).toHaveLength(64);
    expect(() => read(list(65, ...Array.from({ length: 65 }, () => label)))).toThrow(/at most 64/);
    expect(() => read(list(1, array(24 * 64, list(64, ...Array.from({ length: 64 }, () => label)))))).toThrow(
      /at most 64/,
    );
    const nested = (levels: number): Uint8Array =>
      levels === 0 ? list(0) : list(1, array(levels === 1 ? 0 : 24, nested(levels - 1)));
    expect(read(nested(8))).toHaveLength(1);
    expect(() => read(nested(9))).toThrow(/at most 8 levels/);
    expect(() => read(u32(0xffff_ffff))).toThrow(IronclawError);
  });

  it("I10: a truth value or number of another length is refused", () => {
    const read = (hex: string) => new ArgumentReader(fromHex(hex), 0).attributes();
    expect(() => read("0000000100000000010000000400000003")).toThrow(/length: expected 8, got 4/);
    expect(() => read("000000010000000101000000020101")).toThrow(/length: expected 1, got 2/);
  });
});

describe("replies", () => {
  it("I6: too little room gives the length, no room gives the length, enough gives the bytes", () => {
    const bytes = Uint8Array.of(1, 2, 3);
    expect(toHex(encodeByteArray(bytes, null))).toBe("0000000003");
    expect(toHex(encodeByteArray(bytes, 2))).toBe("0000000003");
    expect(toHex(encodeByteArray(bytes, 3))).toBe("0100000003010203");
  });

  it("I6: an empty list is a valid list, also for a count query", () => {
    expect(toHex(encodeUlongArray([], null))).toBe("0100000000");
    expect(toHex(encodeUlongArray([1n], 0))).toBe("0000000001");
  });

  it("I6: a text field has its width, whatever the text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (text) => {
        const field = encodeFixedText(text, 32);
        expect(field.length).toBe(36);
        expect(field.slice(4).every((byte) => byte >= 0x20 && byte < 0x7f)).toBe(true);
      }),
    );
  });

  it("I10: a frame is read as it was written", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 0xffff_ffff }),
        fc.uint8Array({ maxLength: 100 }),
        fc.uint8Array({ maxLength: 20 }),
        (code, body, options) => {
          const splitter = new FrameSplitter();
          splitter.push(rawFrame(code, body, options));
          expect(splitter.next()).toEqual({ code, body });
          expect(splitter.next()).toBeNull();
        },
      ),
    );
  });
});
