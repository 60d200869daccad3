import fc from "fast-check";
import {
  encodeDigestValues,
  encodeNvPublic,
  encodePcrSelection,
  HASH,
  HASH_SIZE,
  type HashName,
  hashName,
  type NvPublic,
  type PcrSelection,
  parseDigestValues,
  parseHandles,
  parseNvPublic,
  parsePcrBanks,
  parsePcrSelection,
  parseProperties,
  parseTimeInfo,
  type TimeInfo,
  TpmFormatError,
} from "node-tpm2-tss";
import { describe, expect, test } from "vitest";
import { concatBytes, fromHex } from "../../../policy/index.ts";
import { u8, u32 } from "./fixture.ts";

const u64 = (value: bigint) => concatBytes(u32(Number(value >> 32n)), u32(Number(value & 0xffffffffn)));
const bank = fc.constantFrom(...(Object.keys(HASH) as HashName[]));
const uint32 = fc.integer({ min: 0, max: 0xffffffff });
const uint64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
const selections: fc.Arbitrary<readonly PcrSelection[]> = fc.array(
  fc.record({
    bank,
    pcrs: fc.uniqueArray(fc.integer({ min: 0, max: 23 })).map((list) => list.sort((a, b) => a - b)),
  }),
  { maxLength: 6 },
);
const digests: fc.Arbitrary<ReadonlyMap<HashName, Uint8Array>> = fc
  .uniqueArray(bank)
  .chain((names) =>
    fc
      .tuple(...names.map((name) => fc.uint8Array({ minLength: HASH_SIZE[name], maxLength: HASH_SIZE[name] })))
      .map((values) => new Map(names.map((name, at) => [name, values[at] ?? u8(0)]))),
  );
const nvPublic: fc.Arbitrary<NvPublic> = fc.record({
  index: uint32,
  nameAlg: bank,
  attributes: uint32,
  authPolicy: fc.uint8Array({ maxLength: 64 }),
  dataSize: fc.integer({ min: 0, max: 0xffff }),
});
const timeInfo: fc.Arbitrary<TimeInfo> = fc.record({
  time: uint64,
  clock: uint64,
  resetCount: uint32,
  restartCount: uint32,
  safe: fc.boolean(),
});

/** A structure: values of it, its parser, and the inverse, which for what only the TPM makes is written here. */
interface Codec<T> {
  readonly name: string;
  readonly values: fc.Arbitrary<T>;
  readonly parse: (bytes: Uint8Array) => T;
  readonly encode: (value: T) => Uint8Array;
}
const codec = <T>(name: string, values: fc.Arbitrary<T>, parse: Codec<T>["parse"], encode: Codec<T>["encode"]) =>
  ({ name, values, parse, encode }) as Codec<unknown>; // a table of different T

const codecs = [
  codec("TPML_PCR_SELECTION", selections, parsePcrSelection, encodePcrSelection),
  codec("TPML_DIGEST_VALUES", digests, parseDigestValues, encodeDigestValues),
  codec("TPMS_NV_PUBLIC", nvPublic, parseNvPublic, encodeNvPublic),
  codec("TPMS_TIME_INFO", timeInfo, parseTimeInfo, ({ time, clock, resetCount, restartCount, safe }) =>
    concatBytes(u64(time), u64(clock), u32(resetCount), u32(restartCount), u8(safe ? 1 : 0)),
  ),
  codec("TPMS_CAPABILITY_DATA of handles", fc.array(uint32), parseHandles, (handles) =>
    concatBytes(u32(1), u32(handles.length), ...handles.map(u32)),
  ),
  codec(
    "TPMS_CAPABILITY_DATA of properties",
    fc.uniqueArray(fc.tuple(uint32, uint32), { selector: ([property]) => property }).map((list) => new Map(list)),
    parseProperties,
    (properties) => concatBytes(u32(6), u32(properties.size), ...[...properties].flat().map(u32)),
  ),
  codec("TPMS_CAPABILITY_DATA of PCRs", selections, parsePcrBanks, (banks) =>
    concatBytes(u32(5), encodePcrSelection(banks)),
  ),
];

describe.each(codecs)("$name", ({ values, parse, encode }) => {
  test("parses what was encoded to the same value", () => {
    fc.assert(
      fc.property(values, (value) => {
        expect(parse(encode(value))).toEqual(value);
      }),
    );
  });

  test("I10: any bytes are encoded again as they were, or end in a TpmFormatError", () => {
    const mutated = fc
      .tuple(values.map(encode), fc.nat(), fc.integer({ min: 1, max: 255 }))
      .map(([bytes, at, flip]) => bytes.map((byte, index) => (index === at % bytes.length ? byte ^ flip : byte)));
    const bytes = fc.oneof(mutated, fc.uint8Array({ maxLength: 120 }));
    fc.assert(
      fc.property(bytes, (given) => {
        let value: unknown;
        try {
          value = parse(given);
        } catch (cause) {
          expect(cause).toBeInstanceOf(TpmFormatError);
          return;
        }
        expect(encode(value)).toEqual(given);
      }),
      { numRuns: 1000 },
    );
  });

  test("one byte less or more is refused", () => {
    fc.assert(
      fc.property(values, (value) => {
        const bytes = encode(value);
        expect(() => parse(bytes.slice(0, -1))).toThrow(TpmFormatError);
        expect(() => parse(concatBytes(bytes, u8(0)))).toThrow(TpmFormatError);
      }),
    );
  });
});

test("what no bytes can be is named", () => {
  expect(() => parsePcrSelection(fromHex("000000010099030000"))).toThrow(
    "TPML_PCR_SELECTION: expected a hash algorithm",
  );
  expect(() => parsePcrSelection(fromHex("00000001000b0400000000"))).toThrow("sizeofSelect: expected 3, got 4");
  expect(() => parsePcrSelection(fromHex("000000"))).toThrow("TPML_PCR_SELECTION: expected 4 bytes at 0, got 3");
  expect(() => parseHandles(fromHex("0000000500000000"))).toThrow("capability: expected 1, got 5");
  expect(() => parseHandles(fromHex("00000001ffffffff"))).toThrow(TpmFormatError);
  expect(() => parseTimeInfo(new Uint8Array(25).fill(2))).toThrow("safe: expected 0 or 1, got 2");
  expect(() =>
    parseDigestValues(concatBytes(u32(2), fromHex("0004"), new Uint8Array(20), fromHex("0004"), new Uint8Array(20))),
  ).toThrow("sha1 is given twice");
  expect(hashName(0x10)).toBe(null);
});

test("a caller's mistakes are TypeErrors: an index out of range or doubled, a digest or policy of the wrong size", () => {
  for (const wrong of [[24], [-1], [0.5], [3, 3]]) {
    expect(() => encodePcrSelection([{ bank: "sha256", pcrs: wrong }])).toThrow(TypeError);
  }
  expect(() => encodeDigestValues(new Map([["sha256", u8(1)] as const]))).toThrow("sha256 digest: expected 32 bytes");
  const index = { index: 1, nameAlg: "sha256", attributes: 0, dataSize: 0, authPolicy: new Uint8Array(0) } as const;
  for (const wrong of [
    { index: -1 },
    { attributes: 2 ** 32 },
    { dataSize: 65536 },
    { authPolicy: new Uint8Array(65536) },
  ]) {
    expect(() => encodeNvPublic({ ...index, ...wrong })).toThrow(TypeError);
  }
});
