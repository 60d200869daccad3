import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { encodePeerExe, parsePeerExeReply } from "../../agent/spawner-messages.ts";
import { toHex } from "../../policy/index.ts";
import { openSpawnerBench, sha256 } from "./spawner/bench.ts";
import type { HostSpawner } from "./spawner/host.ts";

const bench = openSpawnerBench();
const running: number[] = [];
afterEach(() => {
  for (const pid of running.splice(0)) spawnSync("kill", ["-KILL", `${pid}`]); // it may have ended
});
const SLICE = 4 << 20;
const SHELL = realpathSync("/bin/sh");
const SLEEP = realpathSync("/usr/bin/sleep");

/** A copy with so many bytes behind its end. */
function padded(program: string, name: string, bytes: number): string {
  const path = join(bench.programs.directory, name);
  copyFileSync(program, path);
  truncateSync(path, readFileSync(program).length + bytes);
  return path;
}

/** Bytes that the spawner itself has read so far, from anything. */
const readBy = ({ pid }: HostSpawner): number =>
  Number(/^rchar: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, "utf8"))?.[1]);

describe("the spawner's looks", () => {
  test("I10: 64 programs of a read-only file system that are looked at in turn are hashed once each", async () => {
    const directory = join(bench.programs.directory, "image");
    mkdirSync(directory);
    const programs = Array.from({ length: 64 }, (_, index) => join(directory, `p${index}`));
    for (const [index, path] of programs.entries()) {
      copyFileSync(SLEEP, path);
      appendFileSync(path, `${index}`);
    }
    const list = join(directory, "start");
    writeFileSync(
      list,
      programs
        .map((path) => `${path} 600 & echo "$! is running"\n`)
        .join("")
        .concat("wait\n"),
    );
    const spawner = await bench.started({ readOnly: directory, workloads: `many 2001 - ${SHELL} ${list}\n` });
    await spawner.client.startWorkloads();
    await expect.poll(() => spawner.log().match(/\d+ is running/g)?.length, { timeout: 20_000 }).toBe(64);
    const pids = [...spawner.log().matchAll(/(\d+) is running/g)].map(([, pid]) => Number(pid));
    const all = programs.reduce((sum, path) => sum + readFileSync(path).length, 0);
    const round = async (): Promise<number> => {
      const before = readBy(spawner);
      for (const [index, pid] of pids.entries()) {
        const pidfd = await spawner.pidfd(pid);
        const peer = await spawner.client.peerExe(pidfd);
        await spawner.close(pidfd);
        expect(toHex(peer.sha256)).toBe(sha256(readFileSync(programs[index] ?? "")));
      }
      return readBy(spawner) - before;
    };
    running.push(...pids);
    // A child of the shell is the shell until its exec.
    await expect.poll(() => pids.every((pid) => isRunning(pid, directory))).toBe(true);
    expect(await round()).toBeGreaterThanOrEqual(all);
    for (let again = 0; again < 2; again += 1) expect(await round()).toBeLessThan(all / 4);
  });

  test("I6: a program that is replaced in place is found, whatever its times say", async () => {
    const path = padded(SLEEP, "replaced", 2 * SLICE);
    const spawner = await bench.started();
    const times = new Date(1e12);
    const digestOfNew = async (): Promise<string> => {
      const child = await started(path, ["600"]);
      const peer = await spawner.client.peerExe(await spawner.pidfd(child.pid ?? -1));
      child.kill("SIGKILL");
      await once(child, "exit");
      return toHex(peer.sha256);
    };
    const expected: string[] = [];
    const seen: string[] = [];
    for (const last of ["a", "b"]) {
      const bytes = readFileSync(path);
      bytes.write(last, bytes.length - 1);
      writeFileSync(path, bytes);
      utimesSync(path, times, times);
      expected.push(sha256(bytes));
      seen.push(await digestOfNew());
    }
    expect(seen).toEqual(expected);
    expect(seen[0]).not.toBe(seen[1]);
  });

  test("I6: a look at a process that runs another program before its last slice is refused, and so is one that nobody began", async () => {
    const large = padded(SHELL, "large-shell", 2 * SLICE);
    const other = padded(SLEEP, "other-large", 2 * SLICE);
    const spawner = await bench.started();
    const child = await started(large, ["-c", `read line; exec ${other} 600`]);
    const pidfd = await spawner.pidfd(child.pid ?? -1);
    const ask = async (look: number) => parsePeerExeReply(await spawner.packet(encodePeerExe(look), [pidfd]));
    const look = Number(await ask(0));
    expect(Number(await ask(look))).toBe(look);
    child.stdin?.write("go\n");
    await expect.poll(() => realpathSync(`/proc/${child.pid}/exe`)).toBe(other);
    await expect(ask(look)).rejects.toThrow("spawner refused: peer executable: Stale file handle");
    await expect(ask(0xffff_ffff)).rejects.toThrow("spawner refused: peer executable: Stale file handle");
    const peer = await spawner.client.peerExe(pidfd);
    expect(toHex(peer.sha256)).toBe(sha256(readFileSync(other)));
  });
});

async function started(program: string, args: readonly string[]): Promise<ChildProcess> {
  const child = spawn(program, args, { stdio: ["pipe", "ignore", "ignore"] });
  await once(child, "spawn");
  if (child.pid !== undefined) running.push(child.pid);
  return child;
}

const isRunning = (pid: number, directory: string): boolean =>
  readFileSync(`/proc/${pid}/cmdline`, "utf8").startsWith(directory);
