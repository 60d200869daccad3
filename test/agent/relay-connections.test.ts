import { once } from "node:events";
import { readdirSync } from "node:fs";
import type { Socket } from "node:net";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { echo, exchange, programs, relayPid, statusOf, target, withEndpoints } from "./spawner/relay-bench.ts";

describe("connections", () => {
  test("I10: 64 connections are carried at a time, 200 wait for their turn, and each comes through", async () => {
    const { port, sockets } = await target({ host: "127.0.0.1" }, (socket) => void socket.write("hello"));
    const { door, spawner } = await withEndpoints([{ listen: "127.0.0.1:1500", to: `127.0.0.1:${port}` }]);
    const first = await door.number("connect 127.0.0.1:1500");
    expect(await door.number("connects 71 127.0.0.1:1500")).toBe(71);
    await expect.poll(() => sockets.size, { timeout: 20_000 }).toBe(64);
    expect(await door.ask(`receive ${first}`)).toBe("hello");
    await expect.poll(() => spawner.log(), { timeout: 20_000 }).toMatch(/relay 0: all 64 connections are in use/);
    const relay = await relayPid(spawner);
    for (let more = 0; more < 128; more++) {
      const fd = first + (more % 72);
      await door.ask(`close ${fd}`);
      expect(await door.number("connect 127.0.0.1:1500")).toBe(fd);
      // Its listener, what it was given, and two ends of each connection.
      expect(readdirSync(`/proc/${relay}/fd`).length).toBeLessThanOrEqual(4 + 2 * 64);
    }
    for (let fd = first; fd < first + 72; fd++) await door.ask(`close ${fd}`);
    await expect.poll(() => sockets.size, { timeout: 20_000 }).toBe(0);
    expect(await door.ask(`receive ${await door.number("connect 127.0.0.1:1500")}`)).toBe("hello");
  });

  test("I10: who cannot take bytes is not read for: buffers are bounded, and nothing is lost afterwards", async () => {
    const { port, sockets } = await target({ host: "127.0.0.1" }, (socket) => void socket.pause());
    const { spawner, door } = await withEndpoints([{ listen: "127.0.0.1:1500", to: `127.0.0.1:${port}` }]);
    const fd = await door.number("connect 127.0.0.1:1500");
    const pushed = await door.number(`push ${fd}`);
    expect(Number(/VmRSS:\s+(\d+) kB/.exec(statusOf(await relayPid(spawner)))?.[1])).toBeLessThan(8192);
    await door.ask(`finish ${fd}`);
    const [socket] = sockets;
    let got = 0;
    socket?.on("data", (data) => {
      got += data.length;
    });
    socket?.resume();
    if (socket !== undefined) await once(socket, "end");
    expect(pushed).toBeGreaterThan(65_536);
    expect(got).toBe(pushed);
  });

  test("I10: a target that never closes keeps no place of a connection that the shim has closed", async () => {
    const never = (socket: Socket): void => {
      socket.write("hello");
      socket.on("data", (data) => void socket.write(data));
    };
    const { port } = await target({ host: "127.0.0.1" }, never, true);
    const { spawner, door } = await withEndpoints([{ listen: "127.0.0.1:1500", to: `127.0.0.1:${port}` }]);
    const kept = await door.number("connect 127.0.0.1:1500");
    expect(await door.ask(`receive ${kept}`)).toBe("hello");
    for (let round = 0; round < 140; round++) {
      const fd = await door.number("connect 127.0.0.1:1500");
      expect(await door.ask(`receive ${fd}`), `round ${round}`).toBe("hello");
      // what is left unread would make a reset of the close
      await door.ask(`close ${fd}`);
    }
    const relay = await relayPid(spawner);
    expect(readdirSync(`/proc/${relay}/fd`).length).toBeLessThanOrEqual(4 + 2 * 64);
    // the one that both sides keep open is not among those that made room
    expect(await exchange(door, kept, "still here")).toBe("still here");
  });

  test.each([
    ["closes", "/run/blocked"],
    ["resets", "127.0.0.1:1500"],
  ])("I10: a shim that %s a connection to %s, whose target takes no bytes, keeps no place", async (how, listen) => {
    const blocked = await target({ host: "127.0.0.1" }, (socket) => void socket.pause());
    const { port } = await target({ host: "127.0.0.1" }, echo);
    const to = `127.0.0.1:${blocked.port}`;
    const { spawner, door } = await withEndpoints([
      { listen: "127.0.0.1:1500", to },
      { listen: "/run/blocked", to },
      { listen: "127.0.0.1:1501", to: `127.0.0.1:${port}` },
    ]);
    const relay = await relayPid(spawner);
    const fds = () => readdirSync(`/proc/${relay}/fd`).length;
    const fd = await door.number(`connect ${listen}`);
    await door.number(`push ${fd}`);
    expect(fds()).toBe(6 + 2);
    await door.ask(`${how === "resets" ? "reset" : "close"} ${fd}`);
    if (how === "resets") return expect.poll(fds, { timeout: 20_000 }).toBe(6);
    expect(await door.number("connects 63 127.0.0.1:1501")).toBe(63);
    expect(await exchange(door, await door.number("connect 127.0.0.1:1501"), "room")).toBe("room");
    for (let one = fd; one < fd + 63; one++) expect(await exchange(door, one, "carried")).toBe("carried");
  });

  test("bytes come back as they went, in both directions at once", async () => {
    const { port } = await target({ host: "127.0.0.1" }, echo);
    const path = join(programs.directory, "echo.sock");
    await target(path, echo);
    const { door } = await withEndpoints([
      { listen: "127.0.0.1:1500", to: `127.0.0.1:${port}` },
      { listen: "/run/echo", to: path },
    ]);
    for (const listen of ["127.0.0.1:1500", "/run/echo"]) {
      const fd = await door.number(`connect ${listen}`);
      expect(await door.number(`echo ${fd} 3000001`), listen).toBe(3_000_001);
    }
  });

  test("the end of one direction is passed on and the other stays open, from either side", async () => {
    const heard: string[] = [];
    const { port } = await target(
      { host: "127.0.0.1" },
      (socket) => {
        let text = "";
        socket.on("data", (data) => {
          text += data;
          if (text === "you first") socket.end("done");
        });
        socket.on("end", () => {
          heard.push(text);
          if (text !== "you first and more") socket.end(`heard ${text}`);
        });
      },
      true,
    );
    const { door } = await withEndpoints([{ listen: "127.0.0.1:1500", to: `127.0.0.1:${port}` }]);
    const one = await door.number("connect 127.0.0.1:1500");
    await door.ask(`send ${one} all of it`);
    await door.ask(`finish ${one}`);
    expect(await door.ask(`receive ${one}`)).toBe("heard all of it");
    expect(await door.ask(`receive ${one}`)).toBe("end");
    const two = await door.number("connect 127.0.0.1:1500");
    expect(await exchange(door, two, "you first")).toBe("done");
    expect(await door.ask(`receive ${two}`)).toBe("end");
    await door.ask(`send ${two}  and more`);
    await door.ask(`finish ${two}`);
    await expect.poll(() => heard, { timeout: 20_000 }).toEqual(["all of it", "you first and more"]);
  });

  test("a target that refuses, is not there, or resets, closes the connection, and the log says which, once", async () => {
    const { port, server } = await target({ host: "127.0.0.1" }, (socket) => socket.resetAndDestroy());
    const { spawner, door } = await withEndpoints([
      { listen: "127.0.0.1:1500", to: `127.0.0.1:${port}` },
      { listen: "127.0.0.1:1501", to: "/run/nobody" },
    ]);
    const outcome = async (listen: string) => door.ask(`receive ${await door.number(`connect ${listen}`)}`);
    expect(await outcome("127.0.0.1:1500")).toBe("ECONNRESET");
    server.close();
    for (let time = 0; time < 3; time++) {
      expect(await outcome("127.0.0.1:1500")).toBe("ECONNRESET");
      expect(await outcome("127.0.0.1:1501")).toBe("ECONNRESET");
    }
    await expect.poll(() => spawner.log(), { timeout: 20_000 }).toContain("/run/nobody: No such file");
    expect(spawner.log().match(/relay 0: 127\.0\.0\.1:\d+: Connection refused/g)).toHaveLength(1);
    expect(spawner.log().match(/relay 0: \/run\/nobody: No such file or directory/g)).toHaveLength(1);
  });

  test("I10: a shim that opens and drops connections leaves no connection behind", async () => {
    const { port, sockets } = await target({ host: "127.0.0.1" }, echo);
    const { door, spawner } = await withEndpoints([{ listen: "127.0.0.1:1500", to: `127.0.0.1:${port}` }]);
    for (let round = 0; round < 100; round++) {
      const fd = await door.number("connect 127.0.0.1:1500");
      if (round % 2 === 0) await door.ask(`send ${fd} unread`);
      await door.ask(`close ${fd}`);
    }
    await expect.poll(() => sockets.size, { timeout: 20_000 }).toBe(0);
    const fds = () => readdirSync(`/proc/${relay}/fd`).length;
    const relay = await relayPid(spawner);
    await expect.poll(fds, { timeout: 20_000 }).toBe(4);
  });
});
