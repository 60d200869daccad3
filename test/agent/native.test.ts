import { execFileSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { tmpdir, uptime } from "node:os";
import { join, resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { AgentError } from "../../agent/errors.ts";
import { openNative } from "../../agent/native/index.ts";
import { utf8 } from "../../policy/index.ts";
import { native } from "../support/shim-fixture.ts";

const SUPPORT = resolve(import.meta.dirname, "../support");
const addon = native();

describe("the agent's native addon", () => {
  test("messages keep their borders, and descriptors arrive open", async () => {
    const [near, far] = addon.socketPair("seqpacket");
    const device = openSync("/dev/zero", "r");
    const answer = addon.call(near, utf8("request"), [device], 100);
    const { bytes, fds } = await addon.receiveWithFds(far, 100);
    expect(bytes).toEqual(utf8("request"));
    expect(fds).toHaveLength(1);
    expect(fds[0]).not.toBe(device);
    writeSync(far, utf8("reply"));
    expect((await answer).bytes).toEqual(utf8("reply"));
    for (const fd of [near, far, device, ...fds]) closeSync(fd);
  });

  test("I10: a message that does not fit, or does not come, is a typed error", async () => {
    const [near, far] = addon.socketPair("seqpacket");
    writeSync(far, utf8("longer than that"));
    await expect(addon.receiveWithFds(near, 4)).rejects.toMatchObject({ code: "ERR_NATIVE", message: /too long/i });
    await expect(addon.receiveWithFds(near, 4, 50)).rejects.toMatchObject({ code: "ERR_NATIVE" });
    await expect(addon.call(near, new Uint8Array(0), [], 4)).rejects.toBeInstanceOf(TypeError);
    await expect(addon.receiveWithFds(-1, 4)).rejects.toBeInstanceOf(TypeError);
    closeSync(far);
    expect((await addon.receiveWithFds(near, 4)).bytes).toHaveLength(0);
    closeSync(near);
  });

  test("I10: of two that wait for one message the other goes on waiting, for the next", async () => {
    for (let turn = 0; turn < 200; turn++) {
      const [near, far] = addon.socketPair("seqpacket");
      const both = [0, 1].map(() => addon.receiveWithFds(near, 4, 60_000));
      const one = Promise.race(both);
      writeSync(far, utf8("one"));
      expect((await one).bytes).toEqual(utf8("one"));
      writeSync(far, utf8("two"));
      const texts = (await Promise.all(both)).map(({ bytes }) => Buffer.from(bytes).toString());
      expect(texts.sort()).toEqual(["one", "two"]);
      for (const fd of [near, far]) closeSync(fd);
    }
  });

  test("I6: a signal to the agent makes no living process a dead one", async () => {
    const [near, far] = addon.socketPair("stream");
    const { pidfd } = addon.peerCredentials(near);
    // Its samples are signals, one after the other.
    const profiler = new Session();
    profiler.connect();
    await profiler.post("Profiler.enable");
    await profiler.post("Profiler.setSamplingInterval", { interval: 50 });
    await profiler.post("Profiler.start");
    let dead = 0;
    for (let look = 0; look < 500_000; look++) dead += addon.isAlive(pidfd) ? 0 : 1;
    await profiler.post("Profiler.stop");
    profiler.disconnect();
    expect(dead).toBe(0);
    for (const fd of [near, far, pidfd]) closeSync(fd);
  });

  test("I6: the peer of a socket is named by the kernel, with a pidfd", () => {
    const [near, far] = addon.socketPair("stream");
    const peer = addon.peerCredentials(near);
    expect(peer).toMatchObject({ pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() });
    expect(peer.pidfd).toBeGreaterThan(2);
    for (const fd of [peer.pidfd, near, far]) addon.closeFd(fd);
  });

  test("I6: the clock of rates and durations is the kernel's since boot, and goes forward", () => {
    const before = uptime() * 1000;
    const [first, second] = [addon.bootTime(), addon.bootTime()];
    expect(second).toBeGreaterThanOrEqual(first);
    // `uptime` counts in hundredths of a second.
    expect(first).toBeGreaterThan(before - 20);
    expect(first).toBeLessThan(uptime() * 1000 + 20);
  });

  test("I10: a stream that finds no memory leaves its descriptor to the caller; one that nobody can be told of is closed", () => {
    const directory = mkdtempSync(join(tmpdir(), "native-"));
    const preload = join(directory, "starved.so");
    execFileSync("gcc", ["-shared", "-fPIC", "-D_GNU_SOURCE", "-o", preload, join(SUPPORT, "starved.c"), "-ldl"]);
    const env = { ...process.env, LD_PRELOAD: preload };
    const args = [join(SUPPORT, "starved-stream.ts")];
    const printed = execFileSync(process.execPath, args, { encoding: "utf8", env, timeout: 30_000 });
    rmSync(directory, { recursive: true });
    expect(JSON.parse(printed)).toEqual({
      ...{ opened: expect.stringMatching(/ENOMEM|memory/i), isKept: true },
      ...{ started: expect.stringMatching(/ENOSPC|space/i), left: 0 },
    });
    const [near, far] = addon.socketPair("stream");
    const stream = addon.openStream(near);
    expect(() => stream.start(7 as unknown as () => void)).toThrow(AgentError);
    expect(readSync(far, new Uint8Array(1))).toBe(0);
    closeSync(far);
  });

  test("a failed system call is an AgentError with the system's own error as cause", () => {
    const file = openSync("/dev/null", "r");
    expect(() => addon.peerCredentials(file)).toThrow(AgentError);
    closeSync(file);
    expect(() => addon.closeFd(1_000_000)).toThrow(/^closeFd: close: /);
    expect(() => openNative("/nonexistent")).toThrow(AgentError);
  });
});
