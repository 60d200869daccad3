import { Socket } from "node:net";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { ByteQueue } from "../../agent/byte-queue.ts";
import { AgentError } from "../../agent/errors.ts";
import { type Reply, ShimConnection } from "../../agent/shim-connection.ts";
import { MAX_FRAME } from "../../agent/shim-replies.ts";
import { ByteReader, ByteWriter, concatBytes, utf8 } from "../../policy/index.ts";
import { codeOf, native } from "../support/shim-fixture.ts";

const addon = native();
const OP = 6;
const peers: Socket[] = [];

afterEach(() => {
  for (const peer of peers.splice(0)) peer.destroy();
});

interface Scripted {
  readonly connection: ShimConnection;
  readonly peer: Socket;
  /** Every reason the connection was closed for. */
  readonly closed: readonly AgentError[];
  /** Ids of the requests so far, once there are so many. */
  ids(count: number): Promise<readonly number[]>;
}

/** A connection whose other end is the test's. */
function scripted(timeoutMs = 20_000, lastId = 0): Scripted {
  const [ours, theirs] = addon.socketPair("stream");
  const closed: AgentError[] = [];
  const connection = new ShimConnection(addon.openStream(ours), timeoutMs, (error) => closed.push(error), lastId);
  const peer = new Socket({ fd: theirs });
  peers.push(peer);
  peer.on("error", () => undefined);
  const queue = new ByteQueue();
  const ids: number[] = [];
  peer.on("data", (bytes: Uint8Array) => {
    queue.push(bytes);
    while (queue.length >= 4) {
      const length = new ByteReader(queue.peek(4), "request").u32("length");
      if (queue.length < 4 + length) break;
      ids.push(new ByteReader(queue.take(4 + length).subarray(4), "request").u32("id"));
    }
  });
  return {
    ...{ connection, peer, closed },
    ids: async (count) => {
      while (ids.length < count) await new Promise(setImmediate); // `poll` would move a clock that is the test's
      expect(ids).toHaveLength(count);
      return ids;
    },
  };
}

function reply(id: number, payload: Uint8Array, op = OP): Uint8Array {
  const body = new ByteWriter()
    .u32(id)
    .u8(op | 0x80)
    .u64(0n)
    .bytes(payload)
    .finish();
  return new ByteWriter().sized32(body).finish();
}

/** How often each promise settled, and with what. */
function settled(requests: readonly Promise<Reply>[]): Promise<readonly string[]> {
  return Promise.all(
    requests.map((request) =>
      request.then(
        ({ payload }) => new TextDecoder().decode(payload),
        (error: AgentError) => error.code,
      ),
    ),
  );
}

describe("the connection to a shim", () => {
  test("I10: replies that arrive in any pieces answer each request once, with its own payload", async () => {
    const payloads = fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(payloads, fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1 }), async (list, cuts) => {
        const { connection, peer, closed, ids } = scripted();
        const requests = list.map((payload) => connection.request(OP, payload));
        const sent = await ids(list.length);
        const bytes = concatBytes(...list.map((payload, index) => reply(sent[index] ?? 0, payload)));
        for (let at = 0, turn = 0; at < bytes.length; turn++) {
          const size = cuts[turn % cuts.length] ?? 1;
          peer.write(bytes.subarray(at, at + size));
          at += size;
          if (turn % 3 === 0) await new Promise(setImmediate);
        }
        const answers = await Promise.all(requests);
        expect(answers.map(({ payload }) => payload)).toEqual(list);
        expect(closed).toEqual([]);
        connection.close(new AgentError("ERR_SHIM_GONE", "done"));
        peer.destroy();
      }),
      { numRuns: 30 },
    );
  });

  test("I10: a shim that never answers costs one timeout: every request in flight fails with it, later ones at once", async () => {
    const { connection, peer, closed, ids } = scripted(60);
    const requests = Array.from({ length: 5 }, () => connection.request(OP, utf8("x")));
    const [first = 0] = await ids(5);
    expect(await settled(requests)).toEqual(Array(5).fill("ERR_SHIM_TIMEOUT"));
    peer.write(reply(first, utf8("late")));
    expect(await codeOf(connection.request(OP, utf8("x")))).toBe("ERR_SHIM_TIMEOUT");
    expect(closed.map(({ code }) => code)).toEqual(["ERR_SHIM_TIMEOUT"]);
  });

  test("I10: an answer that came in time counts, also when the agent was busy until the time was up", async () => {
    const { connection, peer, closed, ids } = scripted(60);
    const request = connection.request(OP, utf8("x"));
    const [id = 0] = await ids(1);
    peer.write(reply(id, utf8("in time")));
    // Nothing is read and no timer runs meanwhile; afterwards timers come first.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    expect(await settled([request])).toEqual(["in time"]);
    expect(closed).toEqual([]);
  });

  test("I10: a second answer to a request closes the connection, and the first one stands", async () => {
    const { connection, peer, ids } = scripted();
    const requests = ["a", "b", "c"].map((text) => connection.request(OP, utf8(text)));
    const [first = 0] = await ids(3);
    peer.write(concatBytes(reply(first, utf8("once")), reply(first, utf8("twice"))));
    expect(await settled(requests)).toEqual(["once", "ERR_SHIM_PROTOCOL", "ERR_SHIM_PROTOCOL"]);
  });

  test("I10: what a shim sends while no request waits closes the connection: one byte, a reply, a flood", async () => {
    for (const bytes of [Uint8Array.of(0), reply(1, utf8("x")), new Uint8Array(1 << 20)]) {
      const { connection, peer, closed, ids } = scripted();
      const answer = connection.request(OP, utf8("x"));
      peer.write(reply((await ids(1))[0] ?? 0, utf8("first")));
      await answer;
      peer.write(bytes);
      await expect.poll(() => closed.map(({ code }) => code)).toEqual(["ERR_SHIM_PROTOCOL"]);
    }
  });

  test("I10: a length out of bounds closes the connection before its bytes come, and a frame cut short with its end", async () => {
    for (const [bytes, code] of [
      [Uint8Array.of(0xff, 0xff, 0xff, 0xff), "ERR_SHIM_PROTOCOL"],
      [new ByteWriter().u32(MAX_FRAME + 1).finish(), "ERR_SHIM_PROTOCOL"],
      [new ByteWriter().u32(12).bytes(new Uint8Array(12)).finish(), "ERR_SHIM_PROTOCOL"],
      [new ByteWriter().u32(0).finish(), "ERR_SHIM_PROTOCOL"],
    ] as const) {
      const { connection, peer } = scripted();
      const requests = [connection.request(OP, utf8("x")), connection.request(OP, utf8("y"))];
      peer.write(bytes);
      expect(await settled(requests)).toEqual([code, code]);
    }
    const { connection, peer } = scripted();
    const request = connection.request(OP, utf8("x"));
    peer.end(Uint8Array.of(0, 0, 0, 20, 0, 0));
    expect(await codeOf(request)).toBe("ERR_SHIM_GONE");
  });

  test("I10: a frame that comes byte by byte is copied in proportion to its length", () => {
    const queue = new ByteQueue();
    const bytes = Uint8Array.from({ length: MAX_FRAME }, (_, index) => index & 0xff);
    for (let at = 0; at < bytes.length; at++) queue.push(bytes.subarray(at, at + 1));
    expect(queue.take(bytes.length)).toEqual(bytes);
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.uint8Array({ maxLength: 9000 }), fc.nat({ max: 12_000 }))), (turns) => {
        const mixed = new ByteQueue();
        let expected: readonly number[] = [];
        for (const [pushed, taken] of turns) {
          mixed.push(pushed);
          expected = [...expected, ...pushed];
          expect([...mixed.peek(taken)]).toEqual(expected.slice(0, taken));
          expect([...mixed.take(taken)]).toEqual(expected.slice(0, taken));
          expected = expected.slice(taken);
          expect(mixed.length).toBe(expected.length);
        }
      }),
      { numRuns: 40 },
    );
  });

  test("I4: of what was taken, or moved to another place, the queue keeps no byte", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat({ max: 9000 }), fc.nat({ max: 12_000 })), { maxLength: 30 }), (turns) => {
        const queue = new ByteQueue();
        const memories = new Set<ArrayBufferLike>();
        for (const [pushed, taken] of turns) {
          queue.push(new Uint8Array(pushed).fill(0xa5));
          memories.add(queue.peek(0).buffer);
          queue.take(taken);
          const left = [...memories].flatMap((memory) => [...new Uint8Array(memory)]).filter((byte) => byte !== 0);
          expect(left).toHaveLength(queue.length);
        }
      }),
      { numRuns: 40 },
    );
  });

  test("I10: ids begin again at 1 when there are no more", async () => {
    const { connection, peer, ids } = scripted(20_000, 0xffff_fffd);
    const requests = ["a", "b", "c", "d"].map((text) => connection.request(OP, utf8(text)));
    const sent = await ids(4);
    expect(sent).toEqual([0xffff_fffe, 0xffff_ffff, 1, 2]);
    for (const id of sent) peer.write(reply(id, utf8(`${id}`)));
    expect(await settled(requests)).toEqual(sent.map(String));
    connection.close(new AgentError("ERR_SHIM_GONE", "done"));
  });

  test("I10: no more than 1024 requests wait", async () => {
    const { connection } = scripted(100);
    const requests = Array.from({ length: 1024 }, () => connection.request(OP, new Uint8Array(0)));
    expect(await codeOf(connection.request(OP, new Uint8Array(0)))).toBe("ERR_SHIM_TIMEOUT");
    expect(new Set(await settled(requests))).toEqual(new Set(["ERR_SHIM_TIMEOUT"]));
  });
});

describe("the time that a shim has", () => {
  // Only the connection's clock is the test's; sockets go on.
  beforeEach(() => void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] }));
  afterEach(() => void vi.useRealTimers());
  const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

  /** Sixteen requests that wait for a shim with a second for each. */
  async function sixteen() {
    const opened = scripted(1_000);
    const requests = Array.from({ length: 16 }, () => opened.connection.request(OP, utf8("x")));
    for (const request of requests) request.catch(() => undefined); // looked at when the clock has passed
    const sent = await opened.ids(16);
    const answer = async (at: number) => {
      opened.peer.write(reply(sent[at] ?? 0, utf8(`${at}`)));
      expect(await settled(requests.slice(at, at + 1))).toEqual([`${at}`]);
    };
    return { ...opened, requests, answer };
  }
  const codes = ({ closed }: Scripted) => closed.map(({ code }) => code);

  test("I10: a slow shim that answers in order is never late", async () => {
    const opened = await sixteen();
    for (const at of opened.requests.keys()) {
      await pass(900);
      await opened.answer(at);
    }
    await pass(10_000); // nothing waits: nothing is late
    const next = opened.connection.request(OP, utf8("x"));
    next.catch(() => undefined);
    await pass(999);
    expect(codes(opened)).toEqual([]);
    await pass(1);
    expect(await settled([next])).toEqual(["ERR_SHIM_TIMEOUT"]);
  });

  test("I10: one that hangs is late one second after its last answer, however many wait, and each fails", async () => {
    const opened = await sixteen();
    for (const at of [0, 1, 2]) {
      await pass(900);
      await opened.answer(at);
    }
    await pass(999);
    expect(codes(opened)).toEqual([]);
    await pass(1);
    expect(codes(opened)).toEqual(["ERR_SHIM_TIMEOUT"]);
    expect(await settled(opened.requests.slice(3))).toEqual(Array(13).fill("ERR_SHIM_TIMEOUT"));
  });

  test("I10: requests that come meanwhile give one that hangs no time", async () => {
    const opened = await sixteen();
    for (let at = 0; at < 9; at++) {
      await pass(100);
      opened.connection.request(OP, utf8("x")).catch(() => undefined);
    }
    await pass(99);
    expect(codes(opened)).toEqual([]);
    await pass(1);
    expect(codes(opened)).toEqual(["ERR_SHIM_TIMEOUT"]);
  });

  test("I10: one that answers others first gains no time for the oldest", async () => {
    const opened = await sixteen();
    for (let at = 1; at <= 9; at++) {
      await pass(100);
      await opened.answer(at);
    }
    await pass(99);
    expect(codes(opened)).toEqual([]);
    await pass(1);
    expect(codes(opened)).toEqual(["ERR_SHIM_TIMEOUT"]);
  });
});
