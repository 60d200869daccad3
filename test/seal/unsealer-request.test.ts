import { closeSync } from "node:fs";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { concatBytes, type Release, utf8 } from "../../policy/index.ts";
import { SealError } from "../../seal/errors.ts";
import { runUnsealer, unsealRequest } from "../../seal/unseal.ts";
import { parseUnsealAnswer, type UnsealAnswer } from "../../seal/unseal-answer.ts";
import { defineEpoch } from "../support/epoch-fixture.ts";
import {
  bootInto,
  createSealKeys,
  delivered,
  drain,
  type Imported,
  makeRelease,
  openPipes,
  openSealed,
  type Pipe,
  type SealKeys,
  tryUnseal,
  UNSEALER,
} from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { tpmTool } from "../support/tpm-tools.ts";

const NO_TPM = "swtpm:path=/nonexistent";
const LARGEST = 49_152;
let tpm: SoftwareTpm;
let keys: SealKeys;
let release: Release;
let pin: Imported;
let request: Uint8Array;
let pipe: Pipe;

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createSealKeys();
  await defineEpoch(tpm, keys);
  release = await makeRelease(keys);
  pin = await openSealed(tpm, "p384", keys);
  request = unsealRequest({ ...pin, release, anchors: keys.anchors });
  await bootInto(tpm);
  [pipe = { readEnd: -1, writeEnd: -1 }] = await openPipes(1);
});
afterAll(async () => {
  for (const fd of [pipe.readEnd, pipe.writeEnd]) closeSync(fd);
  await tpm?.stop();
});

/** Many requests, a few at a time, into one pipe. */
async function answersTo(requests: readonly Uint8Array[], tcti = NO_TPM): Promise<readonly UnsealAnswer[]> {
  const answers: UnsealAnswer[] = [];
  const waiting = [...requests.entries()];
  const one = async (): Promise<void> => {
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      const [index, bytes] = next;
      answers[index] = await runUnsealer({ path: UNSEALER, tcti, request: bytes, sinks: [pipe.writeEnd] });
    }
  };
  await Promise.all([one(), one(), one(), one()]);
  return answers;
}

const MALFORMED = { kind: "failed", command: "request", rc: "0x00000000" };

describe("a request", () => {
  it("I10: that is good fails without a TPM as environment, not as request", async () => {
    expect((await tryUnseal({ tcti: NO_TPM, request })).answer).toMatchObject({ kind: "failed", command: "TCTI" });
  });

  it("I10: cut short anywhere is refused before the TPM is touched", async () => {
    const cuts = Array.from({ length: request.length }, (_, length) => request.slice(0, length));
    for (const [length, answer] of (await answersTo(cuts)).entries())
      expect(answer, `${length} bytes`).toMatchObject(MALFORMED);
    expect(drain(pipe.readEnd)).toHaveLength(0);
  });

  it("I10: with anything after its end, or larger than a request can be, is refused", async () => {
    const more = [1, 2, 100, LARGEST - request.length, LARGEST + 1 - request.length, 200_000];
    const answers = await answersTo(more.map((length) => concatBytes(request, new Uint8Array(length))));
    for (const answer of answers) expect(answer).toMatchObject(MALFORMED);
    expect(answers.map((answer) => (answer.kind === "failed" ? answer.text : ""))).toEqual([
      ...["end", "end", "end", "end"],
      ...["size", "size"],
    ]);
  });

  it("I10: the field that is wrong is named", async () => {
    const { sealed, imported } = pin;
    const of = (change: Partial<Imported["sealed"]>, other: { imported?: Uint8Array; sinks?: number } = {}) =>
      unsealRequest({ sealed: { ...sealed, ...change }, imported, release, anchors: keys.anchors, ...other });
    const patched = (find: string, by: string) => {
      const at = Buffer.from(request).indexOf(Buffer.from(find, "hex"));
      expect(at).toBeGreaterThan(0);
      const bytes = Uint8Array.from(request);
      bytes.set(Buffer.from(by, "hex"), at);
      return bytes;
    };
    const cases: readonly (readonly [string, Uint8Array])[] = [
      ["magic and version", Uint8Array.of(0x49, 0x43, 0x55, 0x53, 0, 0, 0, 1, ...request.subarray(8))],
      ["magic and version", Uint8Array.of(0x49, 0x43, 0x55, 0x53, 0, 0, 0, 3, ...request.subarray(8))],
      ["ekName", patched("0032000c", "0032000b")],
      ["ekPersistentHandle", patched("81010016", "80010016")],
      ["objectPublic", of({ objectPublic: sealed.objectPublic.map((byte, at) => (at === 7 ? 0xc0 : byte)) })],
      ["objectPublic", of({ objectPublic: sealed.objectPublic.slice(0, -1) })],
      ["objectPublic", of({ objectPublic: new Uint8Array() })],
      ["imported", of({}, { imported: new Uint8Array() })],
      ["imported", of({}, { imported: new Uint8Array(513) })],
      ["nonce", of({ nonce: new Uint8Array(11) })],
      ["nonce", of({ nonce: new Uint8Array(16) })],
      ["ciphertext", of({ ciphertext: new Uint8Array(79) })],
      ["ciphertext", of({ ciphertext: new Uint8Array(32_785) })],
      ["pcrs", patched("0504090b0c0d", "0504040b0c0d")],
      ["pcrs", patched("0504090b0c0d", "0504090b0c10")],
      ["epoch index", patched("01800020", "01c00002")],
      ["epoch index", patched("01800020", "01000020")],
      ["sinks", of({}, { sinks: 0 })],
      ["sinks", of({}, { sinks: 17 })],
    ];
    const answers = await answersTo(cases.map(([, bytes]) => bytes));
    for (const [index, [text]] of cases.entries()) expect(answers[index]).toMatchObject({ ...MALFORMED, text });
    expect(drain(pipe.readEnd)).toHaveLength(0);
  });

  it("I10: with mutated bytes ends in a typed answer", async () => {
    const mutation = fc.array(fc.tuple(fc.nat(request.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    const mutated = fc.sample(mutation, 300).map((changes) => {
      const bytes = Uint8Array.from(request);
      for (const [index, value] of changes) bytes[index] = value;
      return bytes;
    });
    for (const answer of await answersTo(mutated)) expect(answer.kind).toBe("failed");
    expect(drain(pipe.readEnd)).toHaveLength(0);
  });

  it("I2: mutated before a TPM that would open it gives the whole secret or nothing, and leaves nothing loaded", async () => {
    const mutation = fc.tuple(fc.nat(request.length - 1), fc.integer({ min: 1, max: 255 }));
    for (const [index, change] of fc.sample(mutation, 150)) {
      const bytes = request.map((byte, at) => (at === index ? byte ^ change : byte));
      const { answer, received } = await tryUnseal({ tcti: tpm.tcti, request: bytes });
      // Only the persistent handle may differ: the key is then made again.
      expect(received, `byte ${index}`).toEqual([answer.kind === "released" ? delivered() : new Uint8Array()]);
    }
    for (const handles of ["handles-transient", "handles-loaded-session", "handles-saved-session"])
      expect((await tpmTool(tpm, "tpm2_getcap", handles)).trim()).toBe("");
  });

  it("I4: that names more sinks than there are is refused", async () => {
    const two = unsealRequest({ ...pin, release, anchors: keys.anchors, sinks: 2 });
    const { answer, received } = await tryUnseal({ tcti: tpm.tcti, request: two, sinks: 1 });
    expect(answer).toMatchObject({ kind: "failed", text: "sinks" });
    expect(received).toEqual([new Uint8Array()]);
  });

  it("I10: with arguments that are none of the unsealer's is refused", async () => {
    const answer = await runUnsealer({ path: UNSEALER, tcti: "nonsense", request, sinks: [pipe.writeEnd] });
    expect(answer).toMatchObject({ kind: "failed", command: "TCTI" });
  });
});

describe("an answer", () => {
  it("I10: that is any other line from the unsealer is a typed error that does not quote it", () => {
    const lines = [
      "",
      "{}",
      "\n",
      '{"kind":"released","ms":-1}\n',
      '{"kind":"released","ms":1,"pin":"1234"}\n',
      '{"kind":"discarded"}\n\n',
      '{"kind":"refused","answers":[]}\n',
    ];
    for (const line of lines) expect(() => parseUnsealAnswer(utf8(line))).toThrow(SealError);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(() => parseUnsealAnswer(bytes)).toThrow(SealError);
      }),
    );
    expect(parseUnsealAnswer(utf8('{"kind":"released","ms":3}\n'))).toEqual({ kind: "released", ms: 3 });
  });
});
