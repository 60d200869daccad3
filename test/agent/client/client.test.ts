import { randomBytes } from "node:crypto";
import { createServer, type Server, type Socket } from "node:net";
import { dirname } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Client, ClientError, connect, RefusedError } from "../../../agent/client/index.ts";
import { toHex } from "../../../policy/index.ts";
import { type BrokerFixture, INTRUDER_PEER, softwareKeys, startBroker } from "../../support/broker-fixture.ts";

const keys = softwareKeys();
const DIGEST = new Uint8Array(32).fill(0xd1);
const ECDSA = { mechanism: "CKM_ECDSA", digest: DIGEST } as const;
let broker: BrokerFixture;
/** Each signature waits for it. */
let gate: Promise<void>;
const openClients: Client[] = [];
const at = (scope: string) => ({ scope, directory: dirname(broker.socket(scope)) });
const client = async (scope = "release-signing") => {
  const opened = await connect(at(scope));
  openClients.push(opened);
  return opened;
};

beforeEach(async () => {
  gate = Promise.resolve();
  broker = await startBroker({
    publicKeys: keys.publicKeys,
    change: ({ scopes }) =>
      Object.assign(scopes[0] ?? {}, { rate: { perMinute: 600_000, burst: 60_000 }, inFlight: 4 }),
    token: {
      ...keys,
      sign: async (request) => {
        await gate;
        return keys.sign(request);
      },
    },
  });
});
afterEach(async () => {
  for (const opened of openClients.splice(0)) await opened.close();
  await broker.close();
});

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => "done",
    (error) => (error instanceof RefusedError ? error.reason : error instanceof ClientError ? error.code : error.name),
  );

describe("the client", () => {
  test("I7: knows its scope's keys, what each does, and by which mechanisms", async () => {
    const [key, ...others] = (await client()).keys;
    expect(others).toEqual([]);
    expect(key).toMatchObject({ name: "release-ec", does: "sign" });
    expect(toHex(key?.publicKey ?? new Uint8Array())).toBe(toHex(keys.publicKeys.get("release-ec")?.spki ?? DIGEST));
    expect(key?.mechanisms).toEqual([
      { type: "CKM_ECDSA", takes: "digest", digest: "sha256", label: new Uint8Array() },
      { type: "CKM_ECDSA_SHA256", takes: "message", digest: "sha256", label: new Uint8Array() },
    ]);
    const [vault] = (await client("vault")).keys;
    expect(vault?.mechanisms).toMatchObject([{ type: "CKM_RSA_PKCS_OAEP", takes: "block", digest: "sha256" }]);
    expect((await client("legacy")).keys[0]?.mechanisms).toMatchObject([{ digest: null }]);
  });

  test("I10: sends no more at once than the agent has room for, and everything is answered to whoever asked", async () => {
    const opened = await client();
    const session = opened.session();
    const digests = Array.from({ length: 40 }, () => Uint8Array.from(randomBytes(32)));
    const held = Promise.withResolvers<void>();
    gate = held.promise;
    const signatures = digests.map((digest) => session.sign({ mechanism: "CKM_ECDSA", digest }));
    await expect.poll(() => broker.requests.length).toBe(4);
    await opened.ping();
    expect(broker.requests.length).toBe(4);
    held.resolve();
    const firsts = (await Promise.all(signatures)).map((signature) => signature[0]);
    expect(firsts).toEqual(digests.map((digest) => digest[0]));
    expect(broker.records().length).toBe(40);
  });

  test("I7: copies its input when it is called: what the caller changes later is not signed", async () => {
    const session = (await client()).session();
    const digest = DIGEST.slice();
    const signing = session.sign({ mechanism: "CKM_ECDSA", digest });
    digest.fill(0);
    await signing;
    expect(broker.requests[0]?.data).toEqual(DIGEST);
  });

  test("I6: of another caller is refused as it connects", async () => {
    broker.peer = INTRUDER_PEER;
    await expect(connect(at("release-signing"))).rejects.toMatchObject({ code: "ERR_REFUSED", reason: "not-allowed" });
  });

  test("I7: tells a caller's mistakes before anything is sent", async () => {
    const session = (await client()).session();
    await expect(session.sign({ mechanism: "CKM_ECDSA" } as never)).rejects.toThrow(TypeError);
    await expect(session.sign({ ...ECDSA, message: DIGEST } as never)).rejects.toThrow("got 2");
    await expect(session.sign({ mechanism: "CKM_NONE", digest: DIGEST } as never)).rejects.toThrow("mechanism");
    await expect(session.sign({ ...ECDSA, key: "\n" })).rejects.toThrow("printable");
    await expect(session.decrypt({ mechanism: "CKM_RSA_PKCS", ciphertext: DIGEST })).rejects.toThrow("got none");
    await expect(session.sign({ mechanism: "CKM_ECDSA_SHA256", message: new Uint8Array(1 << 18) })).rejects.toThrow(
      "at most",
    );
    await expect(connect({ scope: "../etc" })).rejects.toThrow(TypeError);
    expect(await codeOf(connect("/nonexistent.sock"))).toBe("ERR_CLIENT_UNREACHABLE");
    expect(broker.records()).toEqual([]);
  });

  test("I7: tells why it was refused, as far as it may know", async () => {
    const session = (await client()).session();
    expect(await codeOf(session.sign({ ...ECDSA, key: "release-rsa" }))).toBe("not-allowed");
    expect(await codeOf(session.sign({ mechanism: "CKM_ECDSA", digest: new Uint8Array(20) }))).toBe("malformed-input");
    expect(
      await codeOf(session.unwrap({ key: "release-ec", mechanism: "CKM_RSA_PKCS_OAEP", arriving: "x", blob: DIGEST })),
    ).not.toBe("done");
  });
});

describe("an abort", () => {
  test("I10: ends the call at once, and its place is free when the token is done with it", async () => {
    const opened = await client();
    const session = opened.session();
    const held = Promise.withResolvers<void>();
    gate = held.promise;
    const stop = new AbortController();
    const calls = Array.from({ length: 4 }, () => codeOf(session.sign(ECDSA, stop)));
    await expect.poll(() => broker.requests.length).toBe(4);
    const waiting = codeOf(session.sign(ECDSA, stop));
    const last = session.sign(ECDSA);
    stop.abort();
    expect(await Promise.all([...calls, waiting])).toEqual(Array(5).fill("AbortError"));
    await opened.ping();
    held.resolve();
    expect((await last).length).toBe(64);
    // Those that were begun stand in the log; the one that waited was never sent.
    expect(broker.records().length).toBe(5);
  });

  test("I10: before the call, or while it connects, sends nothing", async () => {
    const session = (await client()).session();
    expect(await codeOf(session.sign(ECDSA, { signal: AbortSignal.abort() }))).toBe("AbortError");
    expect(await codeOf(connect(at("release-signing"), { signal: AbortSignal.abort() }))).toBe("AbortError");
    expect(broker.requests).toEqual([]);
  });
});

describe("a session", () => {
  test("I6: that has expired says so once, and is opened anew by the next call", async () => {
    await broker.close();
    broker = await startBroker({ change: ({ scopes }) => Object.assign(scopes[0] ?? {}, { lifetime: "PT60S" }) });
    const session = (await client()).session();
    expect(await codeOf(session.sign(ECDSA))).toBe("done");
    broker.time += 60_000;
    expect(await codeOf(session.sign(ECDSA))).toBe("expired");
    expect(await codeOf(session.sign(ECDSA))).toBe("done");
  });

  test("I6: is opened once for all calls that wait for it, and ends when it is disposed of", async () => {
    const opened = await client();
    const sessions = [opened.session(), opened.session(), opened.session()];
    await Promise.all(sessions.flatMap((session) => [session.sign(ECDSA), session.sign(ECDSA)]));
    const [first] = sessions;
    await first?.[Symbol.asyncDispose]();
    expect(await codeOf(first?.sign(ECDSA) ?? opened.ping())).toBe("ERR_CLIENT_CLOSED");
    // 64 may be open, and two are.
    const more = Array.from({ length: 63 }, () => opened.session());
    const outcomes = await Promise.all(more.map((session) => codeOf(session.sign(ECDSA))));
    expect(outcomes.filter((outcome) => outcome === "done").length).toBe(62);
    expect(outcomes.filter((outcome) => outcome === "busy").length).toBe(1);
  });

  test("I10: a client that is disposed of waits for what is under way, and takes nothing more", async () => {
    const opened = await client();
    const session = opened.session();
    const held = Promise.withResolvers<void>();
    gate = held.promise;
    const signature = session.sign(ECDSA);
    await expect.poll(() => broker.requests.length).toBe(1);
    const closing = opened[Symbol.asyncDispose]();
    expect(await codeOf(session.sign(ECDSA))).toBe("ERR_CLIENT_CLOSED");
    held.resolve();
    expect((await signature).length).toBe(64);
    await closing;
    expect(() => opened.session()).toThrow("closed");
  });
});

describe("a hostile or broken agent", () => {
  let server: Server;
  let answer: (socket: Socket) => void;
  const path = () => broker.socket("false");
  beforeEach(async () => {
    server = createServer((socket) => answer(socket.on("error", () => {}).resume()));
    await new Promise<void>((resolve) => server.listen(path(), resolve));
  });
  afterEach(() => new Promise((resolve) => server.close(resolve)));

  const greeting = "4952504301";
  test.each([
    ["another magic", "46414b4501"],
    ["a version that it was not offered", "4952504302"],
    ["a reply to nothing", `${greeting}000000050000006300`],
    ["a reply of 4 GiB", `${greeting}ffffffff0000000000`],
    ["an empty HELLO", `${greeting}000000050000000000`],
    [
      "a HELLO of no request at once",
      `${greeting}00000014${"00000000"}00${"0178"}${"00000001"}${"00040000"}${"0000"}${"0040"}00`,
    ],
  ])("I10: that sends %s is not believed", async (_what, hex) => {
    answer = (socket) => socket.write(Buffer.from(hex, "hex"));
    expect(await codeOf(connect(path()))).toBe("ERR_CLIENT_PROTOCOL");
  });

  test("I10: that hangs up is unreachable, and one that says nothing is left by an abort", async () => {
    answer = (socket) => socket.end();
    expect(await codeOf(connect(path()))).toBe("ERR_CLIENT_UNREACHABLE");
    answer = () => undefined;
    const stop = new AbortController();
    const waiting = codeOf(connect(path(), stop));
    await new Promise<void>((resolve) => server.once("connection", () => resolve()));
    stop.abort();
    expect(await waiting).toBe("AbortError");
  });
});
