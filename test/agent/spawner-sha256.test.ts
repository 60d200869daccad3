import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fromHex, toHex, utf8 } from "../../policy/index.ts";
import { buildHashPieces } from "./spawner/host.ts";

const PORTABLE = 0;
const AS_THE_SPAWNER = 1;
const EXTENSIONS = ["sha_ni", "ssse3", "sse4_1"];

type Pieces = readonly Uint8Array[];

let directory: string;
let program: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "ironclaw-sha256-"));
  program = buildHashPieces(directory);
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function u32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

interface Hashed {
  readonly extensions: boolean;
  readonly portable: readonly string[];
  readonly spawner: readonly string[];
}

/** Every text both ways, in one run of the program. */
function hash(texts: readonly Pieces[]): Hashed {
  const order = (way: number) => (pieces: Pieces) => [
    ...[Uint8Array.of(way), u32(pieces.length)],
    ...pieces.flatMap((piece) => [u32(piece.length), piece]),
  ];
  const input = Buffer.concat([...texts.flatMap(order(PORTABLE)), ...texts.flatMap(order(AS_THE_SPAWNER))]);
  const output = execFileSync(program, { input, maxBuffer: 1 << 26 });
  const digests = Array.from({ length: (output.length - 1) / 32 }, (_, index) =>
    toHex(output.subarray(1 + 32 * index, 33 + 32 * index)),
  );
  expect(digests).toHaveLength(2 * texts.length);
  return {
    extensions: output[0] === 1,
    portable: digests.slice(0, texts.length),
    spawner: digests.slice(texts.length),
  };
}

/** `text` cut at these places, which may be equal. */
function cut(text: Uint8Array, places: readonly number[]): Pieces {
  const borders = [0, ...[...places].sort((a, b) => a - b), text.length];
  return borders.slice(1).map((end, index) => text.subarray(borders[index], end));
}

function expectEqualTo(expected: readonly string[], texts: readonly Pieces[]): void {
  const { portable, spawner } = hash(texts);
  expect(portable).toEqual(expected);
  expect(spawner).toEqual(expected);
}

const digestOf = (text: Uint8Array): string => createHash("sha256").update(text).digest("hex");
const pattern = (length: number): Uint8Array => Uint8Array.from({ length }, (_, index) => (index * 167 + 13) & 0xff);

describe("the spawner's SHA-256", () => {
  test("the SHA extensions are used where the kernel names them, and nowhere else", () => {
    const flags = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.split(" ") ?? [];
    expect(hash([]).extensions).toBe(EXTENSIONS.every((name) => flags.includes(name)));
  });

  test("I1: published digests come out of both implementations", () => {
    const published: readonly (readonly [Uint8Array, string])[] = [
      // NIST, "Examples with Intermediate Values" and its additional ones, and SHA256ShortMsg of the CAVP
      [utf8("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
      [
        utf8("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
      ],
      [utf8(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
      [fromHex("bd"), "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b"],
      [fromHex("d3"), "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1"],
      [fromHex("11af"), "5ca7133fa735326081558ac312c620eeca9970d1e70a4b95533d956f072d1f98"],
      [
        utf8(
          "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
        ),
        "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
      ],
      [
        new Uint8Array(1_000_000).fill("a".charCodeAt(0)),
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
      ],
    ];
    expectEqualTo(
      published.map(([, digest]) => digest),
      published.map(([text]) => [text]),
    );
  });

  test("I1: every length from 0 to 300 has OpenSSL's digest, whole and byte by byte", () => {
    const texts = Array.from({ length: 301 }, (_, length) => pattern(length));
    const expected = texts.map(digestOf);
    expectEqualTo(
      expected,
      texts.map((text) => [text]),
    );
    expectEqualTo(
      expected,
      texts.map((text) => [...text].map((byte) => Uint8Array.of(byte))),
    );
  });

  test("I1: every text of two pieces up to 130 bytes has the digest of the whole", () => {
    const texts = Array.from({ length: 131 }, (_, length) => length).flatMap((length) =>
      Array.from({ length: length + 1 }, (_, place) => cut(pattern(length), [place])),
    );
    expectEqualTo(
      texts.map((pieces) => digestOf(Buffer.concat(pieces))),
      texts,
    );
  });

  test("I1: pieces of any lengths have the digest of the whole (property)", () => {
    const text = fc
      .uint8Array({ maxLength: 5000, size: "max" })
      .chain((bytes) => fc.array(fc.nat(bytes.length), { maxLength: 8 }).map((places) => cut(bytes, places)));
    fc.assert(
      fc.property(fc.array(text, { maxLength: 40 }), (texts) =>
        expectEqualTo(
          texts.map((pieces) => digestOf(Buffer.concat(pieces))),
          texts,
        ),
      ),
      { numRuns: 25, endOnFailure: true }, // each run starts a process: a counterexample is not worth hundreds of them
    );
  });
});
