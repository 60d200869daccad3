import { mkdtempSync, rmSync } from "node:fs";
import { createServer, connect as dial, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Client, ClientError, connect } from "../../../agent/client/index.ts";
import { type BrokerFixture, softwareKeys, startBroker } from "../../support/broker-fixture.ts";

const keys = softwareKeys();
const ECDSA = { mechanism: "CKM_ECDSA", digest: new Uint8Array(32).fill(0xd1) } as const;

/** A socket that leads to whichever agent there is, so that one can end and the next one come. */
class Road {
  readonly path: string;
  #target: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(path: string, target: string) {
    this.path = path;
    this.#target = target;
    this.#server = createServer((near) => {
      const far = dial(this.#target);
      for (const socket of [near, far]) {
        this.#sockets.add(socket);
        socket.on("error", () => {});
      }
      near.pipe(far).pipe(near);
      near.on("close", () => far.destroy());
      far.on("close", () => near.destroy());
    });
  }

  static async open(path: string, target: string): Promise<Road> {
    const road = new Road(path, target);
    await new Promise<void>((resolve) => road.#server.listen(path, resolve));
    return road;
  }

  cut(target = this.#target): void {
    this.#target = target;
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  close(): Promise<void> {
    this.cut();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }
}

let directory: string;
let agents: BrokerFixture[];
let road: Road;
let client: Client;
let gate: Promise<void>;
const startAgent = async () => {
  const sign = async (request: Parameters<typeof keys.sign>[0]) => {
    await gate;
    return keys.sign(request);
  };
  const agent = await startBroker({
    publicKeys: keys.publicKeys,
    token: { ...keys, sign },
    change: ({ scopes }) => Object.assign(scopes[0] ?? {}, { inFlight: 2 }),
  });
  agents.push(agent);
  return agent;
};

beforeEach(async () => {
  gate = Promise.resolve();
  agents = [];
  directory = mkdtempSync(join(tmpdir(), "road-"));
  road = await Road.open(join(directory, "s.sock"), (await startAgent()).socket("release-signing"));
  client = await connect(road.path);
});
afterEach(async () => {
  await client.close();
  await road.close();
  for (const agent of agents) await agent.close();
  rmSync(directory, { recursive: true });
});

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => "done",
    (error) => (error instanceof ClientError ? error.code : `${error}`),
  );
/** The client hears of the end a moment later. */
const heard = () => new Promise((resolve) => setTimeout(resolve, 20));

describe("a connection that breaks", () => {
  test("I6: leaves the sessions as they are for their owner: the next calls open them again at the next agent", async () => {
    const sessions = [client.session(), client.session()];
    for (const session of sessions) await session.sign(ECDSA);
    const next = await startAgent();
    road.cut(next.socket("release-signing"));
    await heard();
    const calls = sessions.flatMap((session) => [session.sign(ECDSA), session.sign(ECDSA)]);
    for (const signature of await Promise.all(calls)) expect(signature.length).toBe(64);
    expect(next.requests.length).toBe(4);
  });

  test("I8: ends what is under way with an error that says so, and nothing of it is asked twice", async () => {
    const held = Promise.withResolvers<void>();
    gate = held.promise;
    const session = client.session();
    const [first, second, waiting] = [session.sign(ECDSA), session.sign(ECDSA), session.sign(ECDSA)].map(codeOf);
    await expect.poll(() => agents[0]?.requests.length).toBe(2);
    const next = await startAgent();
    road.cut(next.socket("release-signing"));
    expect(await Promise.all([first, second])).toEqual(["ERR_CLIENT_CONNECTION_LOST", "ERR_CLIENT_CONNECTION_LOST"]);
    held.resolve();
    // It had not been sent, so it goes over the next connection.
    expect(await waiting).toBe("done");
    expect([agents[0]?.requests.length, next.requests.length]).toEqual([2, 1]);
    expect(agents[0]?.records().map(({ decision }) => decision)).toEqual(["allow", "allow"]);
  });

  test("I10: says that nobody answers while there is no agent, and works again when there is one", async () => {
    const session = client.session();
    road.cut(join(directory, "nobody.sock"));
    await heard();
    expect(await Promise.all([session.sign(ECDSA), client.ping(), client.refresh()].map(codeOf))).toEqual(
      Array(3).fill("ERR_CLIENT_UNREACHABLE"),
    );
    road.cut((await startAgent()).socket("release-signing"));
    expect(await codeOf(session.sign(ECDSA))).toBe("done");
  });

  test("I10: is not made again by an abort, and one attempt serves all who wait", async () => {
    const session = client.session();
    road.cut();
    await heard();
    const stop = new AbortController();
    const [aborted, kept] = [session.sign(ECDSA, stop), session.sign(ECDSA)];
    stop.abort();
    await expect(aborted).rejects.toMatchObject({ name: "AbortError" });
    expect((await kept).length).toBe(64);
    expect(agents[0]?.requests.length).toBe(1);
  });

  test("I10: and is being made again is not kept by a client that is closed meanwhile", async () => {
    const session = client.session();
    road.cut();
    await heard();
    const call = codeOf(session.sign(ECDSA));
    await client.close();
    expect(await call).toBe("ERR_CLIENT_CLOSED");
  });
});
