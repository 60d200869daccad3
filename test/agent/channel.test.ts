import { once } from "node:events";
import { closeSync, openSync, readdirSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { SocketChannel } from "../../agent/scopes/channel.ts";
import { openListener } from "../../agent/scopes/listener.ts";
import { concatBytes, utf8 } from "../../policy/index.ts";
import { type Bench, native, openBench } from "../support/shim-fixture.ts";
import { buildWorkload, finished, startAct, type Workload } from "../support/socket-workload.ts";

const addon = native();
let bench: Bench;
let workload: Workload;
let channels: SocketChannel[];
let foreign: string[];
let close: () => void;
let serve: (channel: SocketChannel) => void;
const path = () => join(bench.directory, "channel.sock");

beforeAll(() => {
  bench = openBench();
  workload = buildWorkload(bench.directory);
});
afterAll(() => bench.remove());
beforeEach(async () => {
  [channels, foreign, serve] = [[], [], () => {}];
  ({ close } = await openListener({ native: addon, socketPath: path() }, (stream) => {
    const channel: SocketChannel = new SocketChannel(stream, {
      foreign: (error) => foreign.push(error.message),
      closed: () => channels.splice(channels.indexOf(channel), 1),
    });
    channels.push(channel);
    channel.start();
    serve(channel);
  }));
});
afterEach(() => {
  for (const channel of [...channels]) channel.destroy();
  close();
});

async function open(): Promise<{ client: Socket; channel: SocketChannel }> {
  const accepted = new Promise<SocketChannel>((resolve) => {
    serve = resolve;
  });
  const client = connect({ path: path(), allowHalfOpen: true });
  client.on("error", () => {});
  await once(client, "connect");
  return { client, channel: await accepted };
}

async function readAll(channel: SocketChannel): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of channel.chunks) pieces.push(piece);
  return concatBytes(...pieces);
}

async function echo(channel: SocketChannel): Promise<void> {
  try {
    for await (const piece of channel.chunks) await channel.write(piece);
    channel.end();
  } catch {
    channel.destroy();
  }
}

const descriptors = () => readdirSync("/proc/self/fd").length;

describe("a channel", () => {
  it("I10: what is sent arrives in order and whole, in whatever pieces it was sent", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 40_000 }), { maxLength: 12 }), async (pieces) => {
        const { client, channel } = await open();
        void echo(channel);
        const back: Buffer[] = [];
        client.on("data", (piece: Buffer) => back.push(piece));
        for (const piece of pieces) client.write(piece);
        client.end();
        await once(client, "close");
        expect(Uint8Array.from(Buffer.concat(back))).toEqual(concatBytes(...pieces));
      }),
      { numRuns: 30 },
    );
  });

  it("I10: a write is done when the kernel has the bytes: a reader that does not read is waited for, and delays nobody", async () => {
    const stuck = await open();
    const bytes = new Uint8Array(4 << 20).fill(7);
    let written = false;
    const writing = stuck.channel.write(bytes).then(() => {
      written = true;
    });
    const second = stuck.channel.write(utf8("last"));
    const { client, channel } = await open();
    void echo(channel);
    client.write("ping");
    expect(String((await once(client, "data"))[0])).toBe("ping");
    expect(written).toBe(false);
    stuck.channel.end();
    let length = 0;
    stuck.client.on("data", (piece: Buffer) => {
      length += piece.length;
    });
    await once(stuck.client, "end");
    await Promise.all([writing, second]);
    expect(length).toBe(bytes.length + 4);
  });

  it("I10: nothing is read that nobody asks for, so a sender waits", async () => {
    const { client, channel } = await open();
    expect(client.write(new Uint8Array(8 << 20))).toBe(false);
    await new Promise((done) => setTimeout(done, 50));
    expect(client.writableLength).toBeGreaterThan(4 << 20);
    const reading = readAll(channel);
    client.end();
    expect(await reading).toHaveLength(8 << 20);
  });

  it("I10: what a peer sent before it closed is read, and then the end", async () => {
    const { client, channel } = await open();
    client.end("bye");
    await once(client, "finish");
    expect(await channel.peek()).toBe("b".charCodeAt(0));
    expect(await readAll(channel)).toEqual(utf8("bye"));
    await channel.write(utf8("still here"));
    expect(String((await once(client, "data"))[0])).toBe("still here");
    channel.end();
    expect(channel.destroyed).toBe(true);
    await expect(channel.write(utf8("x"))).rejects.toMatchObject({ code: "ERR_NATIVE" });
  });

  it("I10: a peer that is gone ends the reader, and a write to it is refused", async () => {
    const { client, channel } = await open();
    const reading = readAll(channel).catch((error: unknown) => error);
    client.destroy();
    await reading;
    await expect(channel.write(utf8("x"))).rejects.toMatchObject({ code: "ERR_NATIVE" });
    expect(channels).toEqual([]);
  });

  it("I6: bytes of two senders are never one piece, and after the first foreign one nothing is given", async () => {
    const accepted = new Promise<SocketChannel>((resolve) => {
      serve = resolve;
    });
    const child = startAct(workload.path, ["both", path()], "root");
    const channel = await accepted;
    await once(child.stdout, "data");
    const pieces: string[] = [];
    const reading = (async () => {
      for await (const piece of channel.chunks) pieces.push(Buffer.from(piece).toString());
    })();
    await expect(reading).rejects.toMatchObject({ code: "ERR_FOREIGN_SENDER" });
    expect(pieces).toEqual(["parent"]);
    expect(foreign).toEqual([expect.stringMatching(/expected bytes of the process that connected, got pid \d+, uid/)]);
    await finished(child);
  });

  it("I10: with late taking, every byte comes once and in order, whatever sizes it is sent in", async () => {
    const { client, channel } = await open();
    channel.takeLate();
    const sent = Uint8Array.from({ length: 300_000 }, (_, index) => (index * 7919) >> 5);
    const reading = readAll(channel);
    for (let from = 0, size = 1; from < sent.length; from += size, size = (size * 3) % 40_961 || 1) {
      client.write(sent.subarray(from, Math.min(sent.length, from + size)));
      if (size % 5 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    client.end();
    expect(Buffer.from(await reading).equals(Buffer.from(sent))).toBe(true);
  });

  it("I10: with late taking, a peer that has the smallest send buffer is not stuck behind what it sent before", async () => {
    serve = (channel) => {
      channel.takeLate();
      void echo(channel);
    };
    const child = startAct(workload.path, ["patient", path(), "40"], "root");
    expect(Buffer.from(await finished(child)).toString()).toBe("all");
  });

  it("I10: with late taking, bytes of another process behind the peer's own still end the connection", async () => {
    const accepted = new Promise<SocketChannel>((resolve) => {
      serve = (channel) => {
        channel.takeLate();
        resolve(channel);
      };
    });
    const child = startAct(workload.path, ["both", path()], "root");
    const channel = await accepted;
    await once(child.stdout, "data");
    const pieces: string[] = [];
    const reading = (async () => {
      for await (const piece of channel.chunks) pieces.push(Buffer.from(piece).toString());
    })();
    await expect(reading).rejects.toMatchObject({ code: "ERR_FOREIGN_SENDER" });
    expect(pieces).toEqual(["parent"]);
    await finished(child);
  });

  it("I10: ten thousand connections that are opened and dropped leave no descriptor and no memory behind", async () => {
    serve = (channel) => void echo(channel);
    const flood = async (count: number) => {
      for (let index = 0; index < count; index += 50) {
        await Promise.all(
          Array.from({ length: 50 }, async (_, each) => {
            const client = connect(path());
            client.on("error", () => {});
            await once(client, "connect");
            // A third says nothing, a third leaves in the middle, a third waits for its answer.
            if (each % 3 > 0) client.write("part of a frame");
            if (each % 3 > 1) await once(client, "data");
            client.destroy();
          }),
        );
      }
      while (channels.length > 0) await new Promise((done) => setTimeout(done, 5));
    };
    await flood(2000);
    const [before, resident] = [descriptors(), process.memoryUsage().rss];
    await flood(8000);
    expect(descriptors()).toBeLessThanOrEqual(before);
    // 8000 leaked connections would be 8000 structures of native memory, buffers and handles, more than 1 KiB each.
    expect(process.memoryUsage().rss - resident).toBeLessThan(64 << 20);
    expect(foreign).toEqual([]);
  });
});

describe("a listener", () => {
  it("I6: an inherited socket is served as it is, and its file stays its owner's", async () => {
    const socketPath = join(bench.directory, "inherited.sock");
    const inherited = addon.listen(socketPath);
    // A client that is there before the agent: it waits, and each of its bytes is judged all the same.
    const early = connect(socketPath);
    await once(early, "connect");
    early.write("early");
    const accepted = new Promise<SocketChannel>((resolve) => {
      const closed = (): void => {};
      void openListener({ native: addon, socketPath: "/nowhere", inherited }, (stream) => {
        const channel = new SocketChannel(stream, { foreign: (error) => foreign.push(error.message), closed });
        channel.start();
        resolve(channel);
      }).then((listener) => {
        early.once("data", () => listener.close());
      });
    });
    void echo(await accepted);
    expect(String((await once(early, "data"))[0])).toBe("early");
    early.destroy();
    expect(foreign).toEqual([]);
    expect(readdirSync(bench.directory)).toContain("inherited.sock");
  });

  it("I6: a descriptor that is no Unix stream socket that listens is refused", async () => {
    const [near, far] = addon.socketPair("stream");
    const file = openSync("/dev/null", "r");
    for (const inherited of [near, file]) {
      const opening = openListener({ native: addon, socketPath: "/nowhere", inherited }, () => {});
      await expect(opening).rejects.toMatchObject({ code: "ERR_ENVIRONMENT" });
    }
    for (const fd of [near, far, file]) closeSync(fd);
  });
});
