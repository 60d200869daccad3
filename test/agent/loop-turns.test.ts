import { afterEach, expect, test } from "vitest";
import { LoopTurns } from "../../agent/scopes/loop-turns.ts";
import { concatBytes } from "../../policy/index.ts";
import { type BrokerFixture, startBroker } from "../support/broker-fixture.ts";
import { DIGEST, ECDSA, openSession, PUBLIC } from "../support/broker-session.ts";
import { byteArray, requestFrame, ulongs } from "../support/rpc-client.ts";

let broker: BrokerFixture | null = null;

afterEach(async () => {
  await broker?.close();
  broker = null;
});

/** Requests of several scopes that are all there at once; each takes a millisecond of a clock that is the test's. */
async function orderOf(scopes: Readonly<Record<string, number>>): Promise<{ order: string[]; turns: number[] }> {
  let time = 0;
  let turn = 0;
  const turns = new LoopTurns(() => time);
  const order: string[] = [];
  const counts: number[] = [];
  const connection = async (scope: string): Promise<void> => {
    const take = turns.of(scope);
    for (let request = 0; request < 3; request++) {
      const begins = take();
      if (begins !== null) await begins;
      order.push(scope);
      counts.push(turn);
      time += 1;
    }
  };
  const names = Object.entries(scopes).flatMap(([name, count]) => Array<string>(count).fill(name));
  let over = false;
  const count = (): void => {
    turn += 1;
    if (!over) setImmediate(count);
  };
  setImmediate(count);
  await Promise.all(names.map(connection));
  over = true;
  return { order, turns: counts };
}

test("I10: what does not fill its slice waits for nothing", () => {
  const turn = new LoopTurns(() => 0).of("release-signing");
  for (let request = 0; request < 1000; request++) expect(turn()).toBe(null);
});

test("I10: of what many connections have sent in advance a turn of the event loop begins no more than its slice holds", async () => {
  const { turns } = await orderOf({ busy: 40 });
  expect(turns).toHaveLength(120);
  for (const turn of new Set(turns)) expect(turns.filter((one) => one === turn).length).toBeLessThanOrEqual(2);
});

test("I10: scopes take turns, however many connections one of them has", async () => {
  const { order } = await orderOf({ busy: 40, quiet: 1 });
  // Of the quiet scope's three requests each waits for one of the other's at most, once the first slice is over.
  expect(order.lastIndexOf("quiet")).toBeLessThan(10);
});

test("I10: the event loop turns while one connection's verifications are answered, which were all sent at once", async () => {
  const pairs = 100;
  broker = await startBroker();
  const client = await openSession(broker);
  const verifications = Array.from({ length: pairs }, (_, index) =>
    concatBytes(
      requestFrame(1000 + 2 * index, "C_VerifyInit", ulongs(1n), ECDSA, ulongs(PUBLIC)),
      requestFrame(1001 + 2 * index, "C_Verify", ulongs(1n), ...[DIGEST, signatureOf(index)].map(byteArray)),
    ),
  );
  let turns = 0;
  let isOver = false;
  const count = (): void => {
    turns += 1;
    if (!isOver) setImmediate(count);
  };
  client.send(concatBytes(...verifications));
  await client.reply();
  setImmediate(count);
  const before = turns;
  for (let reply = 1; reply < 2 * pairs; reply++) await client.reply();
  isOver = true;
  expect(turns - before).toBeGreaterThan(5);
});

function signatureOf(index: number): Uint8Array {
  return new Uint8Array(64).fill(index + 1);
}
