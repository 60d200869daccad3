import { afterEach, describe, expect, it } from "vitest";
import { AgentError } from "../../agent/errors.ts";
import type { PeerIdentity } from "../../agent/identity.ts";
import { mostConnections, OpenConnections, parseDescriptorLimit } from "../../agent/scopes/open-connections.ts";
import { type BrokerFixture, INTRUDER_PEER, SIGNER_PEER, startBroker } from "../support/broker-fixture.ts";
import { openClient, openSession, sign, signInit } from "../support/broker-session.ts";
import { openRawClient, type RawClient } from "../support/rpc-client.ts";

let broker: BrokerFixture | null = null;

afterEach(async () => {
  await broker?.close();
  broker = null;
});

async function signs(client: RawClient): Promise<void> {
  await signInit(client);
  expect((await sign(client)).rv).toBe(0n);
}

const SCOPE = "release-signing";
const limited = (connections: number): Promise<BrokerFixture> =>
  startBroker({ change: ({ scopes }) => Object.assign(scopes[0] ?? {}, { connections }) });

describe("places of a scope", () => {
  it("I10: strangers that stay connected take no connection of the scope's caller", async () => {
    broker = await limited(2);
    broker.peer = INTRUDER_PEER;
    for (let index = 0; index < 8; index += 1) await openClient(broker);
    broker.peer = SIGNER_PEER;
    await signs(await openSession(broker));
    await signs(await openSession(broker));
  });

  it("I10: a caller's connection beyond its own is closed, and the log says so", async () => {
    broker = await limited(1);
    const first = await openSession(broker);
    const second = await openRawClient(broker.socket(SCOPE), null);
    expect(await second.closed()).toEqual(new Uint8Array());
    expect(broker.records().map(({ step, reason }) => `${step} ${reason}`)).toEqual([
      "caller the scope has 1 connections",
    ]);
    first.end();
    await first.closed();
    await signs(await openSession(broker));
  });

  it("I10: peers whose identification does not end hold no connection of the caller's either", async () => {
    const never: PeerIdentity = () => new Promise(() => {});
    let identify = never;
    broker = await startBroker({
      identify: (connected) => identify(connected),
      change: ({ scopes }) => Object.assign(scopes[0] ?? {}, { connections: 1 }),
    });
    for (let index = 0; index < 8; index += 1) await openRawClient(broker.socket(SCOPE), null);
    identify = async () => SIGNER_PEER;
    await signs(await openSession(broker));
  });

  it("I10: a stranger that says nothing is sent away", async () => {
    broker = await startBroker({ strangerMs: 50 });
    broker.peer = INTRUDER_PEER;
    const silent = await openRawClient(broker.socket(SCOPE), null);
    expect(await silent.closed()).toEqual(new Uint8Array());
    broker.peer = SIGNER_PEER;
    const caller = await openSession(broker);
    await signs(caller);
  });

  it("I10: beyond what the process may have open a connection is closed, the log says so, and then there is room again", async () => {
    broker = await startBroker({ open: new OpenConnections(2) });
    const only = await openSession(broker);
    const other = await openRawClient(broker.socket(SCOPE), null);
    expect(await other.closed()).toEqual(new Uint8Array());
    expect(broker.records()[0]?.reason).toMatch(/^no connection left for uid \d+$/);
    only.end();
    await only.closed();
    await signs(await openSession(broker));
  });

  it("I10: one that the kernel does not watch is closed and gives its place back, the log says so, and the agent goes on", async () => {
    let broken = true;
    const start = (): never => {
      throw new AgentError("ERR_NATIVE", "start: ENOSPC");
    };
    broker = await startBroker({
      open: new OpenConnections(1),
      accepted: (stream) => (broken ? { ...stream, start } : stream),
    });
    const unwatched = await openRawClient(broker.socket(SCOPE), null);
    expect(await unwatched.closed()).toEqual(new Uint8Array());
    expect(broker.connections.list()).toEqual([]);
    await expect
      .poll(() => broker?.records().map(({ step, reason }) => `${step} ${reason}`))
      .toEqual([expect.stringMatching(/^caller a connection of uid \d+ is not served: start: ENOSPC$/)]);
    broken = false;
    await signs(await openSession(broker));
  });
});

describe("connections of the process", () => {
  it("I10: one user never has more than half of them", () => {
    const open = new OpenConnections(5);
    const held = [open.open(1), open.open(1), open.open(1)];
    expect(held).not.toContain(null);
    expect(open.open(1)).toBeNull();
    expect(open.open(2)).not.toBeNull();
    expect(open.open(3)).not.toBeNull();
    expect(open.open(4)).toBeNull();
    held[0]?.[Symbol.dispose]();
    expect(open.open(4)).not.toBeNull();
  });

  it("I10: they leave descriptors for everything else, however few there are", () => {
    for (const descriptors of [1024, 4096, 1 << 20])
      expect(mostConnections(descriptors) * 3 + 256).toBeLessThanOrEqual(descriptors);
    expect(mostConnections(64)).toBe(1);
    const limits =
      "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 524288               files     \n";
    expect(parseDescriptorLimit(limits)).toBe(1024);
    expect(
      parseDescriptorLimit("Max open files            unlimited            unlimited            files\n"),
    ).toBeNull();
    expect(parseDescriptorLimit("")).toBeNull();
  });
});
