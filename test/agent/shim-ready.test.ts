import { setTimeout as delay } from "node:timers/promises";
import { beforeAll, describe, expect, test } from "vitest";
import type { Shim } from "../../agent/shim-client.ts";
import { utf8 } from "../../policy/bytes.ts";
import { openShimBench } from "../support/shim-bench.ts";
import { buildHostile, rvOf } from "../support/shim-fixture.ts";

// What the shim does before it is asked: the library is made ready for another signature like the last one (SHIM.md, SIGN).

const CKR_DATA_LEN_RANGE = 0x21n;
/** Two more than a shim keeps sessions for. */
const KEYS = Array.from({ length: 18 }, (_, index) => BigInt(index + 1));
const shims = openShimBench();
let library: string;

beforeAll(() => {
  library = buildHostile(shims.bench, "ready-token", "module");
});

async function serving(sessions = "100"): Promise<Shim> {
  const started = await shims.start({ environment: { READY_SESSIONS: sessions } });
  const { shim } = started;
  await shim.load(library);
  started.give("any");
  await shim.login(0n);
  await shim.keys(0n);
  await shim.uses(KEYS.map((handle) => ({ slotId: 0n, handle, use: "sign" as const })));
  await shim.arm();
  return shim;
}

interface Signed {
  readonly session: number;
  readonly key: number;
  /** Milliseconds from C_SignInit to C_Sign. */
  readonly age: number;
  /** Sessions that were opened so far. */
  readonly opened: number;
}

async function sign(shim: Shim, handle: bigint, data = "data"): Promise<Signed> {
  const bytes = await shim.sign({ slotId: 0n, handle, mechanism: 0x1041n, pss: null, data: utf8(data) });
  const [session = 0, key = 0, age = 0, opened = 0] = new TextDecoder().decode(bytes).split(" ").map(Number);
  return { session, key, age, opened };
}

describe("a library that is ready", () => {
  test("I6: it was made ready while nobody asked, and signs with the key that is asked for", async () => {
    const shim = await serving();
    const first = await sign(shim, 1n);
    await delay(60);
    const second = await sign(shim, 1n);
    expect([first.key, second.key, second.session]).toEqual([1, 1, first.session]);
    expect(second.age).toBeGreaterThanOrEqual(50);
    // Ready for key 1, it is asked for another one, and then for key 1 with other data.
    expect((await sign(shim, 2n)).key).toBe(2);
    expect((await sign(shim, 1n)).key).toBe(1);
  });

  test("I10: more keys in turn than sessions are kept for get each its own signature", async () => {
    const shim = await serving();
    for (let round = 0; round < 3; round++) {
      for (const key of KEYS) expect((await sign(shim, key)).key).toBe(Number(key));
    }
    const asked = Array.from({ length: 300 }, (_, index) => KEYS[index % KEYS.length] ?? 1n);
    const signed = await Promise.all(asked.map((key) => sign(shim, key)));
    expect(signed.map(({ key }) => key)).toEqual(asked.map(Number));
    // The log-in's and sixteen: each one that is given up is closed.
    expect(Math.max(...signed.map(({ session }) => session))).toBe(17);
  });

  test("I10: a token with one session signs in that, one operation after the other", async () => {
    const shim = await serving("1");
    for (const key of [1n, 1n, 2n, 1n]) expect(await sign(shim, key)).toMatchObject({ session: 1, key: Number(key) });
  });

  test("I10: an operation that the library leaves begun after a failure is in nobody's way", async () => {
    const shim = await serving();
    for (const key of [1n, 2n]) {
      await sign(shim, key);
      expect(await rvOf(sign(shim, key, "fail"))).toBe(CKR_DATA_LEN_RANGE);
      expect((await sign(shim, key)).key).toBe(Number(key));
    }
  });

  test("I6: what was made ready more than a second ago is not used", async () => {
    const shim = await serving();
    await sign(shim, 1n);
    await delay(1200);
    expect((await sign(shim, 1n)).age).toBeLessThan(1000);
  });

  test("I6: a key that is used seldom keeps its session: nothing is made ready for it", async () => {
    const shim = await serving();
    const opened: number[] = [];
    for (let round = 0; round < 4; round++) {
      opened.push((await sign(shim, 1n)).opened);
      await delay(1200);
    }
    expect(opened).toEqual([2, 3, 3, 3]); // the log-in's, its own, and another one once, before it was known to be used seldom
  });

  test("I10: a signature that is made does not wait for a slow one behind it", async () => {
    const shim = await serving();
    const times: number[] = [];
    const timed = async (key: bigint, data: string) => {
      await sign(shim, key, data);
      times.push(performance.now());
    };
    await timed(1n, "data");
    // Key 2 is not known yet, and then known to be slow.
    for (const _ of [1, 2]) {
      times.length = 0;
      await Promise.all([timed(1n, "data"), timed(1n, "data"), timed(2n, "slow"), timed(1n, "data")]);
      const [, before = 0, slow = 0] = times;
      expect(slow - before).toBeGreaterThan(500);
    }
  });
});
