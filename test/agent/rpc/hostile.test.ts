import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { OPS } from "../../../agent/client/protocol.ts";
import { concatBytes, utf8 } from "../../../policy/index.ts";
import { type BrokerFixture, softwareKeys, startBroker } from "../../support/broker-fixture.ts";
import {
  DIGEST,
  decryptRequest,
  GREETING,
  NativeClient,
  request,
  signPayload,
  signRequest,
  u32,
} from "../../support/native-client.ts";

const keys = softwareKeys();
const IN_FLIGHT = 16;
let broker: BrokerFixture;
/** Each signature waits for it. */
let gate: Promise<void>;
beforeEach(async () => {
  gate = Promise.resolve();
  broker = await startBroker({
    publicKeys: keys.publicKeys,
    change: ({ scopes }) => {
      delete scopes[0]?.["rate"];
      Object.assign(scopes[0] ?? {}, { inFlight: IN_FLIGHT });
    },
    token: {
      ...keys,
      sign: async (asked) => {
        await gate;
        return keys.sign(asked);
      },
    },
  });
});
afterEach(() => broker.close());

const path = () => broker.socket("release-signing");
const open = () => NativeClient.open(path());
const signsStill = async (client: NativeClient) => {
  client.send(signRequest(77));
  expect(await client.reply()).toMatchObject({ id: 77, reason: "done" });
};

describe("bytes that the protocol does not have", () => {
  const sign = signPayload();
  test.each([
    ["another magic", utf8("IRPX\x01"), true],
    ["version 0", utf8("IRPC\x00"), true],
    ["a length of 4", concatBytes(GREETING, u32(4), u32(1)), false],
    ["a length beyond the limit", concatBytes(GREETING, u32(262_145)), false],
    ["a length of 4 GiB", concatBytes(GREETING, u32(0xffff_ffff)), false],
    ["id 0", concatBytes(GREETING, request(0, OPS.ping)), false],
    ["a payload where there is none", concatBytes(GREETING, request(1, OPS.ping, u32(1))), false],
    ["half a session's number", concatBytes(GREETING, request(1, OPS.close, u32(1).slice(2))), false],
    ["a SIGN without its last byte", concatBytes(GREETING, request(1, OPS.sign, sign.slice(0, -1))), false],
    ["a SIGN with a byte more", concatBytes(GREETING, request(1, OPS.sign, concatBytes(sign, u32(0)))), false],
    [
      "form 0",
      concatBytes(
        GREETING,
        request(
          1,
          OPS.sign,
          sign.map((byte, at) => (at === 19 ? 0 : byte)),
        ),
      ),
      false,
    ],
    ["a line feed in a key's name", concatBytes(GREETING, signRequest(1, { key: "release\nec" })), false],
    [
      "an input longer than its frame",
      concatBytes(
        GREETING,
        request(
          1,
          OPS.sign,
          sign.map((byte, at) => (at === 20 ? 255 : byte)),
        ),
      ),
      false,
    ],
  ])("I10: %s ends that connection only", async (_what, bytes, beforeHello) => {
    const bystander = await open();
    const client = await NativeClient.dial(path());
    await client.replay(bytes);
    const got = await client.closed();
    expect(got.length === 0).toBe(beforeHello);
    expect(broker.requests).toEqual([]);
    await signsStill(bystander);
  });

  test("I6: a request that does not wait for the greeting's reply ends the connection, and is recorded", async () => {
    const client = await NativeClient.dial(path());
    client.send(concatBytes(GREETING, signRequest(1)));
    expect(await client.closed()).toEqual(new Uint8Array());
    expect(broker.requests).toEqual([]);
    expect(broker.records().map(({ step, reason }) => `${step} ${reason}`)).toEqual([
      "caller after the greeting: expected no byte before its reply, got more",
    ]);
  });

  test("I10: an id that is in use ends the connection; one whose reply has come may be used again", async () => {
    const client = await open();
    await signsStill(client);
    await signsStill(client);
    const held = Promise.withResolvers<void>();
    gate = held.promise;
    client.send(signRequest(5), signRequest(5));
    await client.closed();
    held.resolve();
    expect(broker.requests.length).toBeLessThanOrEqual(3);
  });

  test("I10: a stream in pieces of one byte is the same stream, and an end in the middle of a request asks nothing", async () => {
    const client = await NativeClient.dial(path());
    for (const byte of GREETING) client.send(Uint8Array.of(byte));
    await client.some();
    for (const byte of signRequest(9)) client.send(Uint8Array.of(byte));
    await client.take(5);
    expect((await client.replies(2)).map(({ id, reason }) => [id, reason])).toEqual([
      [0, "done"],
      [9, "done"],
    ]);
    client.send(signRequest(10).slice(0, 30));
    client.end();
    expect(await client.closed()).toEqual(new Uint8Array());
    expect(broker.requests.length).toBe(1);
  });

  test("I10: what is announced and never sent is counted: beyond 16 MiB in one scope connections are closed, and then there is room again", async () => {
    const announced = concatBytes(GREETING, u32(262_144));
    const clients: NativeClient[] = [];
    const late = await open();
    for (let index = 0; index < 64; index += 1) {
      const client = await NativeClient.greeted(path());
      await client.reply();
      client.send(announced.slice(5));
      clients.push(client);
    }
    // Answered until the agent has read what the last one announced.
    const pinged = async (): Promise<boolean> => {
      late.send(request(1, OPS.ping));
      return late.reply().then(
        () => true,
        () => false,
      );
    };
    while (await pinged());
    expect(await late.closed()).toEqual(new Uint8Array());
    for (const client of clients) {
      client.end();
      await client.closed();
    }
    await signsStill(await open());
  });
});

describe("many requests", () => {
  test("I10: a thousand at once are each answered once, and no more than `inFlight` are in work", async () => {
    let most = 0;
    let now = 0;
    const original = keys.sign;
    gate = Promise.resolve();
    await broker.close();
    broker = await startBroker({
      publicKeys: keys.publicKeys,
      change: ({ scopes }) => {
        delete scopes[0]?.["rate"];
        Object.assign(scopes[0] ?? {}, { inFlight: IN_FLIGHT });
      },
      token: {
        ...keys,
        sign: async (asked) => {
          now += 1;
          most = Math.max(most, now);
          // Each takes as many turns as its first byte says: they overtake one another.
          for (let turn = asked.data[0] ?? 0; turn >= 0; turn -= 1) await new Promise(setImmediate);
          now -= 1;
          return original(asked);
        },
      },
    });
    const client = await open();
    const inputs = Array.from({ length: 1000 }, (_, index) => new Uint8Array(32).fill(index % 7));
    client.send(...inputs.map((input, index) => signRequest(index + 1, { input })));
    const replies = await client.replies(1000);
    expect(new Set(replies.map(({ id }) => id)).size).toBe(1000);
    for (const { id, reason, payload } of replies) expect([reason, payload[0]]).toEqual(["done", (id - 1) % 7]);
    expect(replies.map(({ id }) => id)).not.toEqual(replies.map(({ id }) => id).sort((a, b) => a - b));
    expect(most).toBe(IN_FLIGHT);
  });

  test("I10: a client that does not read stops its own requests only", async () => {
    const slow = await open();
    slow.socket.pause();
    const message = new Uint8Array(8192);
    // Far more than sockets hold, in signatures of 64 bytes: what is not read is not asked.
    for (let index = 0; index < 8000; index += 1) slow.send(signRequest(index + 1));
    slow.send(
      ...Array.from({ length: 200 }, (_, index) =>
        signRequest(9000 + index, { mechanism: 0x1044, form: "message", input: message }),
      ),
    );
    await expect.poll(() => broker.requests.length).toBeGreaterThan(1000);
    let before = -1;
    while (before !== broker.requests.length) {
      before = broker.requests.length;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    expect(before).toBeLessThan(8200);
    await signsStill(await open());
    slow.socket.resume();
    const replies = await slow.replies(8200);
    expect(replies.every(({ reason }) => reason === "done")).toBe(true);
  });

  test("I10: a flood of requests that are refused, or that nobody knows, is answered in order", async () => {
    const client = await open();
    const flood = Array.from({ length: 500 }, (_, index) => request(index + 1, 100 + (index % 100)));
    client.send(...flood);
    const replies = await client.replies(500);
    expect(replies.map(({ id }) => id)).toEqual(flood.map((_, index) => index + 1));
    expect(new Set(replies.map(({ reason }) => reason))).toEqual(new Set(["unsupported"]));
    await signsStill(client);
  });
});

describe("CANCEL", () => {
  test("I7 I10: is answered at once, what was begun gives nothing, and its place is taken until it is done", async () => {
    const held = Promise.withResolvers<void>();
    gate = held.promise;
    const client = await open();
    client.send(...Array.from({ length: IN_FLIGHT }, (_, index) => signRequest(index + 1)));
    await expect.poll(() => broker.requests.length).toBe(IN_FLIGHT);
    client.send(request(100, OPS.cancel, u32(3)), request(101, OPS.cancel, u32(3)), request(102, OPS.cancel, u32(999)));
    expect((await client.replies(4)).map(({ id, reason }) => [id, reason])).toEqual([
      [3, "cancelled"],
      [100, "done"],
      [101, "done"],
      [102, "done"],
    ]);
    // The id is free, the place is not.
    client.send(signRequest(3));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(broker.requests.length).toBe(IN_FLIGHT);
    held.resolve();
    const replies = await client.replies(IN_FLIGHT);
    expect(replies.map(({ id, reason }) => `${id} ${reason}`).sort()).toEqual(
      Array.from({ length: IN_FLIGHT }, (_, index) => `${index + 1} done`).sort(),
    );
    expect([broker.requests.length, broker.records().length]).toEqual([IN_FLIGHT + 1, IN_FLIGHT + 1]);
  });

  test("I7: of a decryption never gives the plaintext, whenever it comes", async () => {
    const vault = await NativeClient.open(broker.socket("raw"));
    for (let round = 0; round < 20; round += 1) {
      vault.send(decryptRequest(1, "vault", 0x3, new Uint8Array(256).fill(1)));
      if (round % 2 === 1) await new Promise(setImmediate);
      vault.send(request(2, OPS.cancel, u32(1)));
      const replies = await vault.replies(2);
      expect(replies.map(({ id }) => id).sort()).toEqual([1, 2]);
      const own = replies.find(({ id }) => id === 1);
      expect(["done", "cancelled"]).toContain(own?.reason);
      expect(own?.payload.length).toBe(own?.reason === "done" ? 256 : 0);
    }
  });
});

describe("requests in hostile orders", () => {
  const step = fc.oneof(
    fc.record({ op: fc.constant("sign"), session: fc.nat(3) }),
    fc.record({ op: fc.constantFrom("hello", "open", "ping"), session: fc.constant(0) }),
    fc.record({ op: fc.constantFrom("close", "cancel"), session: fc.nat(4) }),
  );
  const bytesOf = ({ op, session }: { op: string; session: number }, id: number) => {
    if (op === "sign") return signRequest(id, { session });
    const payload = op === "close" || op === "cancel" ? u32(session) : new Uint8Array();
    return request(id, OPS[op as keyof typeof OPS], payload);
  };

  test("I6 I10: each is answered once, and only an open session signs", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 24 }), async (steps) => {
        const client = await open();
        client.send(...steps.map((one, index) => bytesOf(one, index + 1)));
        const replies = await client.replies(steps.length);
        expect(replies.map(({ id }) => id).sort((a, b) => a - b)).toEqual(steps.map((_, index) => index + 1));
        const sessions = new Set([1]);
        let last = 1;
        steps.forEach(({ op, session }, index) => {
          const reply = replies.find(({ id }) => id === index + 1);
          if (op === "open") sessions.add(++last);
          if (op === "close") sessions.delete(session);
          if (op === "sign" && !sessions.has(session)) expect(["expired", "cancelled"]).toContain(reply?.reason);
          else if (op === "sign") expect(["done", "cancelled"]).toContain(reply?.reason);
          else expect(reply?.reason).toBe("done");
        });
        client.end();
        await client.closed();
      }),
      { numRuns: 100 },
    );
  });

  test("I10: mutated streams reach the token with nothing that the scope does not allow", async () => {
    const stream = concatBytes(
      GREETING,
      request(1, OPS.open),
      signRequest(2),
      signRequest(3, { session: 2 }),
      request(4, OPS.cancel, u32(3)),
    );
    const bystander = await open();
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(stream.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        async (changes) => {
          const mutated = stream.slice();
          for (const [at, byte] of changes) mutated[at] = byte;
          const client = await NativeClient.dial(path());
          await client.replay(mutated);
          client.end();
          await client.closed();
        },
      ),
      { numRuns: 150 },
    );
    for (const { key, mechanism, data } of broker.requests)
      expect([key, mechanism.type, data.length]).toEqual(["release-ec", "CKM_ECDSA", DIGEST.length]);
    await signsStill(bystander);
  });
});
