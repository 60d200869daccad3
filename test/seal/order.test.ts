import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import {
  IronclawError,
  PolicyError,
  parseEnvelope,
  type SigningKey,
  signEnvelope,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { freezeHex } from "../../seal/freeze-bits.ts";
import { ORDER_TYPE, type Order, requireOrdered, signOrder, verifyOrder } from "../../seal/order.ts";
import { newKey } from "../support/sealing-bench.ts";

let operator: SigningKey;
beforeAll(async () => {
  operator = await newKey();
});

const hex = (bytes: number) => fc.uint8Array({ minLength: bytes, maxLength: bytes }).map(toHex);
const u64 = fc.bigInt(0n, 2n ** 64n - 1n);
const ekName = fc.oneof(
  hex(32).map((digest) => `000b${digest}`),
  hex(48).map((digest) => `000c${digest}`),
);
const order: fc.Arbitrary<Order> = fc.oneof(
  fc.record({
    ...{ version: fc.constant(1 as const), order: fc.constant("retry-login" as const), ekName },
    ...{ name: fc.stringMatching(/^[a-z0-9-]{1,32}$/), record: hex(64) },
  }),
  fc.record({ version: fc.constant(1 as const), order: fc.constant("new-volume" as const), ekName, anchor: hex(64) }),
  fc
    .record({
      version: fc.constant(1 as const),
      order: fc.constant("unfreeze" as const),
      ekName,
      boot: hex(32),
      id: hex(16),
      bits: u64,
      keep: u64,
    })
    .map(({ bits, keep, ...rest }) => ({ ...rest, bits: freezeHex(bits), keep: freezeHex(bits & keep) })),
);
const RETRY: Order = {
  ...{ version: 1, order: "retry-login", ekName: `000b${"ab".repeat(32)}`, name: "hsm-pin" },
  record: "01".repeat(64),
};

describe("an operator's order", () => {
  test("I11: what the operator signed is read back, in its one encoding", async () => {
    await fc.assert(
      fc.asyncProperty(order, async (value) => {
        const bytes = await signOrder(value, operator);
        const read = await verifyOrder(bytes, operator.spkiPem);
        expect(read).toEqual(value);
        expect(utf8(JSON.stringify(read))).toEqual(parseEnvelope(bytes).payload);
      }),
      { numRuns: 50 },
    );
  });

  test("I11: one that a stranger signed, or that is a document of another type, is refused", async () => {
    const stranger = await newKey();
    const { payload } = parseEnvelope(await signOrder(RETRY, operator));
    for (const bytes of [
      await signOrder(RETRY, stranger),
      await signEnvelope("application/vnd.ironclaw.sealed+json", payload, operator),
      await signEnvelope("application/vnd.ironclaw.release+json", payload, operator),
    ])
      await expect(verifyOrder(bytes, operator.spkiPem)).rejects.toMatchObject({ code: "ERR_ENVELOPE_SIGNATURE" });
  });

  test("I10: every other shape is refused when it is signed and when it is read", async () => {
    const changes: readonly object[] = [
      { version: 2 },
      { order: "reboot" },
      { ekName: "" },
      { ekName: RETRY.ekName.toUpperCase() },
      { name: "HSM" },
      { name: undefined },
      { record: "00" },
      { record: `${"01".repeat(63)}0G` },
      { anchor: "01".repeat(64) },
    ];
    for (const change of changes) {
      const value = { ...RETRY, ...change };
      // What a caller without types, or an operator's own tool, may hand in.
      await expect(signOrder(value as Order, operator)).rejects.toMatchObject({ code: "ERR_ENVELOPE_MALFORMED" });
      const bytes = await signEnvelope(ORDER_TYPE, utf8(JSON.stringify(value)), operator);
      await expect(verifyOrder(bytes, operator.spkiPem)).rejects.toMatchObject({ code: "ERR_ENVELOPE_MALFORMED" });
    }
  });

  test("I10: random and mutated documents end in a typed error or in the order they encode", async () => {
    const { payload } = parseEnvelope(await signOrder(RETRY, operator));
    const mutated = fc.tuple(fc.nat(payload.length - 1), fc.nat(255)).map(([at, to]) => payload.with(at, to));
    await fc.assert(
      fc.asyncProperty(fc.oneof(mutated, fc.uint8Array({ maxLength: 100 })), async (input) => {
        try {
          const read = await verifyOrder(await signEnvelope(ORDER_TYPE, input, operator), operator.spkiPem);
          expect(utf8(JSON.stringify(read))).toEqual(input);
        } catch (error) {
          expect(error).toBeInstanceOf(PolicyError);
        }
      }),
      { numRuns: 200 },
    );
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => {
        await expect(verifyOrder(bytes, operator.spkiPem)).rejects.toBeInstanceOf(IronclawError);
      }),
    );
  });

  test("I10: one to unfreeze keeps nothing that is not set, nor anything where nothing is known", async () => {
    const ekName = RETRY.ekName;
    const fields = { version: 1, order: "unfreeze", ekName, boot: "00".repeat(32), id: "01".repeat(16) } as const;
    for (const [bits, keep] of [
      ["0000000000000001", "0000000000000003"],
      [null, "0000000000000001"],
      ["1", "0"],
      ["0000000000000001", "000000000000000G"],
    ] as const)
      await expect(signOrder({ ...fields, bits, keep }, operator)).rejects.toMatchObject({
        code: "ERR_ENVELOPE_MALFORMED",
      });
    await signOrder({ ...fields, bits: null, keep: "0".repeat(16) }, operator);
  });

  test("I11: it is for one state of one machine: anything else than was ordered is ERR_ORDER, with advice", () => {
    requireOrdered("record", "01", "01");
    const act = () => requireOrdered("record", "01", "02");
    expect(act).toThrow(expect.objectContaining({ code: "ERR_ORDER", exitCode: 3, expected: "01", got: "02" }));
    expect(act).toThrow(expect.objectContaining({ hint: expect.stringMatching(/new one/) }));
  });
});
