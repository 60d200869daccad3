import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createSessions, type SessionService } from "../../agent/control/sessions.ts";
import type { Peer } from "../../agent/identity.ts";
import { type BrokerFixture, INTRUDER_PEER, SIGNER_PEER, startBroker } from "../support/broker-fixture.ts";
import { openClient, openSession, sign, signInit } from "../support/broker-session.ts";
import { NativeClient, signRequest } from "../support/native-client.ts";
import { openRawClient } from "../support/rpc-client.ts";

let broker: BrokerFixture;
let sessions: SessionService;
let release: (() => void) | null = null;
beforeEach(async () => {
  release = null;
  broker = await startBroker({
    change: (document) => {
      const [scope] = document.scopes;
      Object.assign(scope ?? {}, { rate: { perMinute: 60, burst: 2 }, freezeBit: 3 });
    },
    token: {
      sign: () =>
        new Promise((resolve) => {
          const give = () => resolve(new Uint8Array(64));
          if (release === null) give();
          else release = give;
        }),
    },
  });
  const { connections } = broker;
  const { live, usage, audit } = broker.broker;
  sessions = createSessions({ serving: () => ({ connections, live, usage }), audit });
});
afterEach(() => broker.close());

const ask = async (client: Awaited<ReturnType<typeof openSession>>) => {
  const begun = await signInit(client);
  return begun.rv === 0n ? (await sign(client)).rv : begun.rv;
};
const listed = () => sessions.list().sessions;
/** Says nothing: a door answers only who is identified. */
const connectTo = (to: BrokerFixture) => openRawClient(to.socket("release-signing"), null);
async function until(met: () => boolean): Promise<void> {
  for (let tries = 0; !met(); tries += 1) {
    if (tries > 500) throw new Error("it does not come");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

describe("the list of sessions", () => {
  it("I6: has each connection with its scope, its door, its caller, and what it did, and none that is over", async () => {
    expect(listed()).toEqual([]);
    const client = await openSession(broker);
    broker.peer = { ...SIGNER_PEER, unit: "signer.service" };
    const native = await NativeClient.greeted(broker.socket("release-signing"));
    await until(() => listed().every(({ door }) => door !== null) && listed().length === 2);
    expect(await ask(client)).toBe(0n);
    broker.time += 5_000;
    const [first, second] = listed();
    expect(first).toEqual({
      ...{ session: 1, scope: "release-signing", door: "p11kit", standing: "caller" },
      caller: { uid: expect.any(Number), pid: process.pid, unit: null },
      ...{ since: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/), idleSeconds: 5, operations: 1, refused: 0 },
      ...{ rate: { left: 2, perMinute: 60, burst: 2 }, waitsFor: null },
    });
    expect(second).toMatchObject({ session: 2, door: "rpc", caller: { unit: "signer.service" }, operations: 0 });
    client.end();
    native.socket.destroy();
    await until(() => listed().length === 0);
  });

  it("I6: tells what each one waits for: the token, approvals, the rate, the end of a freeze", async () => {
    const client = await openSession(broker);
    release = () => undefined;
    const answered = ask(client);
    await until(() => listed()[0]?.waitsFor === "token");
    release();
    release = null;
    expect(await answered).toBe(0n);
    expect(listed()[0]?.waitsFor).toBeNull();
    await ask(client);
    await ask(client);
    expect(listed()[0]).toMatchObject({ waitsFor: "rate", operations: 2, refused: 1, rate: { left: 0 } });
    broker.time += 60_000;
    broker.broker.live.freeze({ all: false, scopes: new Set(["release-signing"]) });
    await ask(client);
    expect(listed()[0]).toMatchObject({ waitsFor: "unfreeze", refused: 2 });
  });

  it("I6: shows a peer that is refused as refused, and its refusals; of one scope, when it is asked for that", async () => {
    broker.peer = INTRUDER_PEER;
    const client = await openClient(broker);
    await client.call("C_Initialize", new Uint8Array()).catch(() => undefined);
    await until(() => listed()[0]?.standing === "refused");
    expect(sessions.list("release-signing").sessions).toHaveLength(1);
    expect(sessions.list("vault").sessions).toEqual([]);
  });

  it("I8: counts for each connection what the metrics count for its scope", async () => {
    const [one, other] = [await openSession(broker), await NativeClient.open(broker.socket("release-signing"))];
    expect(await ask(one)).toBe(0n);
    other.socket.write(signRequest(7));
    expect((await other.reply()).reason).toBe("done");
    expect(listed().map(({ operations }) => operations)).toEqual([1, 1]);
  });
});

describe("the end of a session", () => {
  it("I8: closes that connection at once, is an operator's record, and leaves the others alone", async () => {
    const [one, other] = [await openSession(broker), await openSession(broker)];
    expect(await ask(one)).toBe(0n);
    expect(await sessions.end(1)).toMatchObject({ session: 1, scope: "release-signing", operations: 1 });
    await expect(ask(one)).rejects.toThrow("closed");
    expect(await ask(other)).toBe(0n);
    expect(listed().map(({ session }) => session)).toEqual([2]);
    const ended = broker.records().filter(({ operation }) => operation === "end");
    expect(ended).toMatchObject([
      {
        ...{
          decision: "deny",
          step: null,
          scope: "release-signing",
          caller: { uid: SIGNER_PEER.uid, pid: SIGNER_PEER.pid },
        },
        reason: "session 1, 1 operations: ended by whoever reached the control port",
      },
    ]);
  });

  it("I8: of one that has an operation at the token drops its result, and whoever it was may come again", async () => {
    const client = await openSession(broker);
    release = () => undefined;
    const answered = ask(client);
    await until(() => listed()[0]?.waitsFor === "token");
    await sessions.end(1);
    await expect(answered).rejects.toThrow("closed");
    release();
    release = null;
    expect(await ask(await openSession(broker))).toBe(0n);
    expect(listed().map(({ session }) => session)).toEqual([2]);
  });

  it("I8: of one that is still being identified, or that cannot be, is recorded with the user and process that connected", async () => {
    const identified = Promise.withResolvers<Peer>();
    const waiting = await startBroker({ identify: () => identified.promise });
    try {
      const { connections } = waiting;
      const { live, usage, audit } = waiting.broker;
      const early = createSessions({ serving: () => ({ connections, live, usage }), audit });
      await connectTo(waiting);
      await until(() => early.list().sessions.length === 1);
      const caller = { uid: process.getuid?.() ?? -1, pid: process.pid };
      expect(await early.end(1)).toMatchObject({ standing: "identifying", caller });
      identified.reject(new Error("nobody"));
      await connectTo(waiting);
      await until(() => early.list().sessions[0]?.standing === "refused");
      await early.end(2);
      const ended = waiting.records().filter(({ operation }) => operation === "end");
      expect(ended.map((record) => record.caller)).toEqual(Array(2).fill({ ...caller, exe: "unknown" }));
    } finally {
      await waiting.close();
    }
  });

  it("I10: of none that is open is refused, and nothing is recorded", async () => {
    await expect(sessions.end(9)).rejects.toMatchObject({ code: "ERR_ENVIRONMENT", got: "none" });
    expect(broker.records()).toEqual([]);
    const unserved = createSessions({ serving: () => null, audit: broker.broker.audit });
    expect(unserved.list()).toEqual({ sessions: [], more: 0 });
    await expect(unserved.end(1)).rejects.toMatchObject({ code: "ERR_ENVIRONMENT" });
  });
});
