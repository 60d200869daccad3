import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Peer } from "../../agent/identity.ts";
import { openP11kitDoor } from "../../agent/p11kit/connection.ts";
import type { OpenDoor } from "../../agent/scopes/index.ts";
import { utf8 } from "../../policy/index.ts";
import { type BrokerFixture, INTRUDER_PEER, SIGNER_PEER, startBroker } from "../support/broker-fixture.ts";
import { openClient, openSession, sign, signInit } from "../support/broker-session.ts";
import { openRawClient, ulongs } from "../support/rpc-client.ts";

/** Answers the whole stream, once it has ended, backwards. */
const openBackwardsDoor: OpenDoor =
  () =>
  async ({ channel }) => {
    const bytes: number[] = [];
    for await (const piece of channel.chunks) bytes.push(...piece);
    await channel.write(Uint8Array.from(bytes.reverse()));
    channel.end();
  };

let broker: BrokerFixture;
let looks = 0;
let unit: string | null = null;
const identify = async (): Promise<Peer> => {
  looks += 1;
  if (broker.peer === null) throw new Error("no such process");
  return { ...broker.peer, unit };
};
beforeEach(async () => {
  [looks, unit] = [0, null];
  broker = await startBroker({ identify, doors: { p11kit: openP11kitDoor, rpc: openBackwardsDoor } });
});
afterEach(() => broker.close());

async function said(bytes: Uint8Array): Promise<Uint8Array> {
  const client = await openRawClient(broker.socket("release-signing"), null);
  client.send(bytes);
  client.end();
  return client.closed();
}

const ask = async (client: Awaited<ReturnType<typeof openSession>>) => {
  await signInit(client);
  return (await sign(client)).rv;
};
const reasons = () => broker.records().flatMap(({ step, reason }) => (step === "caller" ? [reason] : []));

describe("the door", () => {
  it("I6: is chosen by the first byte, which it reads itself", async () => {
    expect(await said(utf8("IRPC\u0001"))).toEqual(utf8("\u0001CPRI"));
    expect(await said(Uint8Array.of(0x1f))).toEqual(Uint8Array.of(2));
  });

  it("I10: there is none for another first byte, nor for the native protocol where it is not served", async () => {
    for (const first of [0x20, 0x48, 0x4a, 0x69, 0xff])
      expect(await said(Uint8Array.of(first))).toEqual(new Uint8Array());
    expect(broker.records()).toEqual([]);
    broker.peer = INTRUDER_PEER;
    expect(await said(Uint8Array.of(0xff))).toEqual(new Uint8Array());
    expect(reasons()).toHaveLength(1);
    await broker.close();
    broker = await startBroker({ identify, doors: { p11kit: openP11kitDoor } });
    expect(await said(utf8("IRPC\u0001"))).toEqual(new Uint8Array());
  });
});

describe("a look at the caller", () => {
  it("I6: counts for a quarter of a second, and in that time an operation asks nobody", async () => {
    const client = await openSession(broker);
    const before = looks;
    for (let index = 0; index < 5; index += 1) expect(await ask(client)).toBe(0n);
    broker.time += 250;
    expect(await ask(client)).toBe(0n);
    expect(looks).toBe(before);
    broker.time += 1;
    expect(await ask(client)).toBe(0n);
    expect(looks).toBe(before + 1);
  });

  it("I6, I10: is taken when a session is opened and the last one was 50 ms ago, and no more often", async () => {
    const client = await openSession(broker);
    const before = looks;
    broker.time += 50;
    await client.call("C_OpenSession", ulongs(1n, 4n));
    expect(looks).toBe(before);
    broker.time += 1;
    for (let index = 0; index < 5; index += 1) await client.call("C_OpenSession", ulongs(1n, 4n));
    expect(looks).toBe(before + 1);
    broker.time += 51;
    broker.peer = { ...SIGNER_PEER, exe: `sha256:${"00".repeat(32)}` };
    await expect(client.call("C_OpenSession", ulongs(1n, 4n))).rejects.toThrow("closed");
    expect(reasons()).toEqual([expect.stringMatching(/^peer executable: expected sha256:5e/)]);
  });

  it("I6: that finds another unit, or cannot be taken, ends the connection and is recorded", async () => {
    const cases: readonly (readonly [string | null, Peer | null, string])[] = [
      ["other.service", SIGNER_PEER, "peer unit: expected none, got other.service"],
      [null, null, "peer: expected the one identified before, got unknown"],
    ];
    for (const [itsUnit, found, reason] of cases) {
      [unit, broker.peer] = [null, SIGNER_PEER];
      const client = await openSession(broker);
      [unit, broker.peer] = [itsUnit, found];
      broker.time += 251;
      await expect(ask(client)).rejects.toThrow("closed");
      expect(reasons().at(-1)).toBe(reason);
    }
    expect(broker.requests).toEqual([]);
  });

  it("I10: is not taken again for a peer that is refused anyway", async () => {
    broker.peer = INTRUDER_PEER;
    const client = await openClient(broker);
    const before = looks;
    broker.time += 1000;
    for (let index = 0; index < 3; index += 1)
      expect((await client.call("C_OpenSession", ulongs(1n, 4n))).rv).toBe(0x200n);
    expect(looks).toBe(before);
  });
});
