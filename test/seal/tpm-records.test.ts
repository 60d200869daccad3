import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { sha256, toHex, utf8 } from "../../policy/index.ts";
import { SealError } from "../../seal/errors.ts";
import {
  ANCHOR_INDEX,
  type Anchor,
  encodeAnchor,
  encodeLoginRecord,
  LOGIN_INDEX,
  LOGIN_OUTCOMES,
  type LoginOutcome,
  type LoginRecord,
  parseAnchor,
  parseLoginRecord,
  provisionRecords,
  readAnchor,
  readLogin,
  writeAnchor,
  writeLogin,
} from "../../seal/tpm-records.ts";
import { loadedHandles, lockOut, lockoutCounter, snapshot, withTss } from "../support/sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { type BusFault, openTpmBus } from "../support/tpm-bus.ts";

const outcomes = Object.keys(LOGIN_OUTCOMES) as LoginOutcome[]; // the keys of a literal
const digest = fc.uint8Array({ minLength: 32, maxLength: 32 }).map(toHex);
const u64 = fc.bigInt(0n, 2n ** 64n - 1n);
const loginRecord: fc.Arbitrary<LoginRecord> = fc.record({
  name: fc.stringMatching(/^[a-z0-9-]{1,32}$/),
  outcome: fc.constantFrom(...outcomes),
  generation: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  tries: u64,
  package: digest,
});
const anchor: fc.Arbitrary<Anchor> = fc.record({
  volumeId: fc.uint8Array({ minLength: 16, maxLength: 16 }),
  seq: fc.nat(Number.MAX_SAFE_INTEGER),
  hash: digest,
});
const record: LoginRecord = {
  ...{ name: "hsm-pin", outcome: "trying", generation: 3, tries: 5n },
  package: toHex(sha256(utf8("a package"))),
};

/** Bytes as an agent wrote them, with one of them changed, or any. */
function damaged(good: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Uint8Array> {
  return fc.oneof(
    fc.tuple(good, fc.nat(63), fc.nat(255)).map(([bytes, at, to]) => bytes.with(at, to)),
    fc.uint8Array({ maxLength: 80 }),
  );
}

describe("the login record", () => {
  test("I11: of 64 bytes, what is written is read", () => {
    fc.assert(
      fc.property(loginRecord, (value) => {
        const bytes = encodeLoginRecord(value);
        expect(bytes).toHaveLength(64);
        expect(parseLoginRecord(bytes, value.name)).toEqual(value);
      }),
    );
  });

  test("I10: any other bytes are the one encoding of a record, or ERR_SEAL_RECORD", () => {
    const named = loginRecord.map((value) => encodeLoginRecord({ ...value, name: "hsm-pin" }));
    fc.assert(
      fc.property(damaged(named), (bytes) => {
        try {
          expect(encodeLoginRecord(parseLoginRecord(bytes, "hsm-pin"))).toEqual(bytes);
        } catch (error) {
          expect(error).toMatchObject({ code: "ERR_SEAL_RECORD", exitCode: 3 });
        }
      }),
      { numRuns: 500 },
    );
  });

  test("I10: a wrong outcome, a reserved byte, another name and another size are ERR_SEAL_RECORD", () => {
    const bytes = encodeLoginRecord(record);
    const wrong = [0, 5, 255].map((outcome) => bytes.with(16, outcome));
    const others = [...wrong, bytes.with(17, 1), bytes.with(19, 1), bytes.with(0, 1), bytes.slice(1), new Uint8Array()];
    for (const each of [...others, new Uint8Array(64), new Uint8Array(65)])
      expect(() => parseLoginRecord(each, record.name)).toThrow(SealError);
    expect(() => encodeLoginRecord({ ...record, package: "00" })).toThrow(TypeError);
  });
});

describe("the anchor", () => {
  test("I11: of 64 bytes, what is written is read, and zeros are none", () => {
    fc.assert(
      fc.property(anchor, (value) => {
        const bytes = encodeAnchor(value);
        expect(bytes).toHaveLength(64);
        expect(parseAnchor(bytes)).toEqual(value);
      }),
    );
    expect(parseAnchor(new Uint8Array(64))).toBe(null);
  });

  test("I10: any other bytes are the one encoding of an anchor, or ERR_SEAL_RECORD", () => {
    fc.assert(
      fc.property(damaged(anchor.map(encodeAnchor)), (bytes) => {
        try {
          const parsed = parseAnchor(bytes);
          expect(parsed === null ? new Uint8Array(64) : encodeAnchor(parsed)).toEqual(bytes);
        } catch (error) {
          expect(error).toMatchObject({ code: "ERR_SEAL_RECORD" });
        }
      }),
      { numRuns: 500 },
    );
  });

  test("I10: a count that is no exact number is refused, in both directions", () => {
    const bytes = encodeAnchor({ volumeId: new Uint8Array(16), seq: 1, hash: record.package });
    expect(() => parseAnchor(bytes.with(24, 0x80))).toThrow(SealError);
    for (const change of [{ seq: -1 }, { seq: 0.5 }, { hash: "" }, { volumeId: new Uint8Array(15) }])
      expect(() => encodeAnchor({ volumeId: new Uint8Array(16), seq: 1, hash: record.package, ...change })).toThrow(
        TypeError,
      );
  });
});

describe("in the TPM", () => {
  let tpm: SoftwareTpm;
  let fresh: Awaited<ReturnType<typeof snapshot>>;
  beforeAll(async () => {
    tpm = await startSwtpm({ endorsement: "keys" });
    fresh = await snapshot(tpm);
  });
  beforeEach(() => fresh.restore());
  afterAll(async () => {
    await fresh?.discard();
    await tpm?.stop();
  });

  test("I11: after a crash at any of its commands, provisioning is repeated and then complete", async () => {
    await using bus = await openTpmBus(tpm);
    const agent = { tcti: bus.tcti("agent") };
    bus.arm();
    await withTss(agent, provisionRecords);
    const { length } = bus.commands;
    for (let at = 0; at < length; at++) {
      for (const fault of ["refuse", "lose"] as const) {
        await fresh.restore();
        bus.arm(({ index }): BusFault => (index === at ? fault : null));
        await withTss(agent, (tss) => provisionRecords(tss).catch(() => undefined));
        await bus.flushClient("agent");
        bus.arm();
        await withTss(agent, async (tss) => {
          await provisionRecords(tss);
          expect(await readLogin(tss, "hsm-pin"), `${fault} ${at}`).toEqual({ kind: "none" });
          expect(await readAnchor(tss), `${fault} ${at}`).toEqual({ kind: "none" });
        });
      }
    }
  });

  test("I11: the records are there after a power cut, each credential has one, and provisioning again keeps them", async () => {
    const names = Array.from({ length: 8 }, (_, index) => `credential-${index}`);
    const recordOf = (name: string, tries: bigint): LoginRecord => ({ ...record, name, tries });
    await withTss(tpm, async (tss) => {
      await provisionRecords(tss);
      for (const name of names) await writeLogin(tss, recordOf(name, 1n));
      for (const name of names.toReversed()) await writeLogin(tss, recordOf(name, 2n));
    });
    await tpm.restart();
    await withTss(tpm, async (tss) => {
      await provisionRecords(tss);
      for (const name of names)
        expect(await readLogin(tss, name)).toEqual({ kind: "record", record: recordOf(name, 2n) });
      expect(await readLogin(tss, "hsm-pin")).toEqual({ kind: "none" });
      await expect(writeLogin(tss, record)).rejects.toMatchObject({ code: "ERR_SEAL_RECORD" });
    });
  });

  test("I11: a write that the TPM did not see leaves the earlier record, and one whose answer was lost is written", async () => {
    await withTss(tpm, async (tss) => {
      await provisionRecords(tss);
      await writeLogin(tss, record);
    });
    await using bus = await openTpmBus(tpm);
    for (const [fault, tries] of [
      ["refuse", 5n],
      ["lose", 6n],
    ] as const) {
      bus.arm(({ code }) => (code === 0x137 ? fault : null)); // NV_Write
      await withTss({ tcti: bus.tcti("agent") }, (tss) =>
        expect(writeLogin(tss, { ...record, tries: 6n })).rejects.toMatchObject({ command: "NV_Write" }),
      );
      expect(await withTss(tpm, (tss) => readLogin(tss, record.name))).toMatchObject({ record: { tries } });
    }
  });

  test("I8: the anchor is set, moved and taken away", async () => {
    await withTss(tpm, async (tss) => {
      expect(await readAnchor(tss)).toEqual({ kind: "missing" });
      await expect(writeAnchor(tss, null)).rejects.toMatchObject({ code: "ERR_SEAL_RECORD", got: "missing" });
      await provisionRecords(tss);
      for (const seq of [0, 1, Number.MAX_SAFE_INTEGER]) {
        const value: Anchor = { volumeId: new Uint8Array(16).fill(9), seq, hash: record.package };
        await writeAnchor(tss, value);
        expect(await readAnchor(tss)).toEqual({ kind: "anchor", anchor: value });
      }
      await writeAnchor(tss, null);
      expect(await readAnchor(tss)).toEqual({ kind: "none" });
    });
  });

  test("I11: a TPM that somebody has locked out reads and writes the records all the same", async () => {
    await withTss(tpm, async (tss) => {
      await provisionRecords(tss);
      await lockOut(tss);
    });
    await withTss(tpm, async (tss) => {
      expect(await lockoutCounter(tss)).toBeGreaterThan(0);
      await writeLogin(tss, record);
      expect(await readLogin(tss, record.name)).toEqual({ kind: "record", record });
    });
  });

  test("I11: another index in the place of one is neither read nor written, costs no count, and provisioning says so", async () => {
    const definitions = [
      { index: LOGIN_INDEX, attributes: 0x0204_0004, dataSize: 64 },
      { index: LOGIN_INDEX, attributes: 0x0004_0004, dataSize: 512, auth: utf8("guess me") },
      { index: ANCHOR_INDEX, attributes: 0x0204_0014, dataSize: 8 },
    ];
    for (const definition of definitions) {
      await fresh.restore();
      await withTss(tpm, async (tss) => void (await tss.nvDefineSpace(definition)));
      await withTss(tpm, async (tss) => {
        expect([await readLogin(tss, "hsm-pin"), await readAnchor(tss)]).toEqual([
          { kind: "missing" },
          { kind: "missing" },
        ]);
        await expect(provisionRecords(tss)).rejects.toMatchObject({ code: "ERR_SEAL_RECORD", got: "another index" });
        expect(await lockoutCounter(tss)).toBe(0);
        expect(await loadedHandles(tss)).toEqual([]);
      });
    }
  });

  test("I11, its limit: root of the running guest writes what it likes; bytes that no agent wrote are ERR_SEAL_RECORD", async () => {
    await withTss(tpm, async (tss) => {
      await provisionRecords(tss);
      const overwrite = async (bytes: Uint8Array) => {
        await using index = await tss.trFromTpmPublic(LOGIN_INDEX);
        await tss.nvWrite(index, bytes);
      };
      await overwrite(encodeLoginRecord(record).with(16, 9));
      await expect(readLogin(tss, record.name)).rejects.toMatchObject({ code: "ERR_SEAL_RECORD" });
      await overwrite(encodeLoginRecord({ ...record, outcome: "accepted" }));
      expect(await readLogin(tss, record.name)).toMatchObject({ record: { outcome: "accepted" } });
    });
  });
});
