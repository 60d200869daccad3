import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { answerOf, signatureOf, signingFrames } from "../../vm-images/story/frames.ts";
import { replayFrames } from "../../vm-images/workload/replay.ts";
import { type BrokerFixture, INTRUDER_PEER, SIGNER_PEER, startBroker } from "../support/broker-fixture.ts";

const directory = mkdtempSync(join(tmpdir(), "workload-"));
const servers: Server[] = [];
let broker: BrokerFixture | undefined;
afterEach(async () => {
  await broker?.close();
  broker = undefined;
});
afterAll(() => {
  for (const server of servers) server.close();
  rmSync(directory, { recursive: true, force: true });
});

const digest = new Uint8Array(32).fill(0xd1);
const frames = signingFrames(digest, { slot: 1n, session: 1n, privateKey: 1n });

async function serverOf(serve: (socket: Socket) => void): Promise<string> {
  const path = join(directory, `${servers.length}.sock`);
  const server = createServer((socket) => serve(socket.on("error", () => socket.destroy())));
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return path;
}

describe("recorded requests against the real broker", () => {
  test("I6: the scope's caller gets a signature, a stranger with the very same bytes an error for each call", async () => {
    broker = await startBroker();
    broker.peer = SIGNER_PEER;
    const served = await replayFrames(broker.socket("release-signing"), frames);
    expect(served).toHaveLength(frames.length);
    expect(Uint8Array.from(signatureOf(served.at(-1) ?? new Uint8Array()) ?? [])).toEqual(
      new Uint8Array(64).fill(0xd1),
    );
    expect(broker.requests).toHaveLength(1);

    broker.peer = INTRUDER_PEER;
    const refused = await replayFrames(broker.socket("release-signing"), frames);
    const calls = refused.slice(1).map(answerOf);
    expect(calls).toHaveLength(frames.length - 1);
    for (const { call, rv } of calls) {
      expect(call).toBe(0);
      expect(rv).not.toBe(0n);
    }
    expect(broker.requests).toHaveLength(1);
  });

  test("I8: what the caller signed and what the stranger tried are both in the log", async () => {
    broker = await startBroker();
    broker.peer = INTRUDER_PEER;
    await replayFrames(broker.socket("release-signing"), frames);
    broker.peer = SIGNER_PEER;
    await replayFrames(broker.socket("release-signing"), frames);
    const decisions = broker
      .records()
      .map(({ decision, caller, operation }) => `${decision} ${caller?.uid} ${operation}`);
    expect(decisions).toContain("deny 2002 connect");
    expect(decisions).toContain("allow 2001 sign");
    expect(decisions).not.toContain("allow 2002 sign");
  });

  test("another scope does not show the key that the recorded bytes ask for", async () => {
    broker = await startBroker();
    broker.peer = SIGNER_PEER;
    const answers = await replayFrames(broker.socket("rsa-signing"), frames);
    expect(signatureOf(answers.at(-1) ?? new Uint8Array())).toBeNull();
    expect(broker.requests).toHaveLength(0);
  });
});

describe("a replay against a server that misbehaves", () => {
  const header = (options: number, body: number) => {
    const bytes = Buffer.alloc(12);
    bytes.writeUInt32BE(options, 4);
    bytes.writeUInt32BE(body, 8);
    return bytes;
  };

  test("an answer in pieces is put together; the next request is sent only after it", async () => {
    const seen: number[] = [];
    const path = await serverOf((socket) => {
      socket.on("data", (chunk: Buffer) => {
        seen.push(chunk.length);
        const reply = seen.length === 1 ? Buffer.of(0) : Buffer.concat([header(1, 3), Buffer.from("abcd")]);
        for (const byte of reply) socket.write(Buffer.of(byte));
      });
    });
    const answers = await replayFrames(path, frames.slice(0, 3));
    expect(answers.map(({ length }) => length)).toEqual([1, 16, 16]);
    expect(seen).toEqual(frames.slice(0, 3).map(({ length }) => length));
  });

  test("I10: an answer without end is cut off", async () => {
    const path = await serverOf((socket) => {
      socket.once("data", () => {
        socket.write(Buffer.of(0));
        socket.once("data", () => socket.write(Buffer.concat([header(0, 0xffffffff), Buffer.alloc(2 << 20)])));
      });
    });
    await expect(replayFrames(path, frames)).rejects.toThrow(/longer than 1 MiB/);
  });

  test("I10: a server that closes, at once or between two answers, ends the replay", async () => {
    const atOnce = await serverOf((socket) => socket.destroy());
    await expect(replayFrames(atOnce, frames)).rejects.toThrow(/closed by the server|EPIPE|ECONNRESET/);
    const between = await serverOf((socket) => {
      socket.once("data", () => socket.end(Buffer.of(0)));
    });
    await expect(replayFrames(between, frames)).rejects.toThrow(/closed by the server|EPIPE|ECONNRESET/);
  });

  test("a socket that is not there is an error, not silence", async () => {
    await expect(replayFrames(join(directory, "none.sock"), frames)).rejects.toThrow(/ENOENT/);
  });
});
