import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdtempSync, readFileSync, realpathSync, rmSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { concatBytes, toHex, utf8 } from "../../policy/index.ts";
import { openSpawnerBench, sha256 } from "./spawner/bench.ts";

const bench = openSpawnerBench();

describe("peer-exe", () => {
  test("a process is known by the digest of its executable, asked once or twice", async () => {
    const spawner = await bench.started();
    const agent = await spawner.logged(/agent started, pid (\d+)/);
    const pidfd = await spawner.pidfd(agent);
    for (let time = 0; time < 2; time++) {
      const peer = await spawner.client.peerExe(pidfd);
      expect({ ...peer, sha256: toHex(peer.sha256) }).toEqual({
        pid: agent,
        sha256: sha256(readFileSync(bench.programs.agent)),
        path: realpathSync(bench.programs.agent),
      });
    }
  });

  test("a workload is known by the digest of its program, whether that was measured ahead or not", async () => {
    const sleep = realpathSync("/usr/bin/sleep");
    const spawner = await bench.started({ workloads: `nap 2001 - ${sleep} 60\n` });
    await spawner.client.startWorkloads();
    const pidfd = await spawner.pidfd(await spawner.logged(/nap: started as uid \d+, pid (\d+)/));
    for (let time = 0; time < 20; time++) {
      // Before its execve the child is still the spawner itself.
      const peer = await spawner.client.peerExe(pidfd).catch(() => null);
      if (peer?.path === sleep) expect(toHex(peer.sha256)).toBe(sha256(readFileSync(sleep)));
      await delay(5);
    }
    expect((await spawner.client.peerExe(pidfd)).path).toBe(sleep);
  });

  test("I6: a program that was changed without a trace in its times has another digest", async () => {
    const sleep = realpathSync("/usr/bin/sleep");
    const spawner = await bench.started({ workloads: `chameleon 2001 - ${bench.programs.chameleon} ${sleep}\n` });
    await spawner.client.startWorkloads();
    const chameleon = await spawner.logged(/chameleon: started as uid \d+, pid (\d+)/);
    const digestOf = async (pid: number): Promise<string> => {
      const pidfd = await spawner.pidfd(pid);
      for (;;) {
        const peer = await spawner.client.peerExe(pidfd).catch(() => null);
        // Before its execve the child is still the chameleon itself.
        if (peer?.path.startsWith("/memfd:") === true) return toHex(peer.sha256);
      }
    };
    for (const [index, last] of ["a", "b", "c"].entries()) {
      const pid = await spawner.logged(new RegExp(`copy ${index + 1} is (\\d+)\n`));
      expect(await digestOf(pid)).toBe(sha256(concatBytes(readFileSync(sleep), utf8(last))));
      process.kill(chameleon, "SIGUSR1");
    }
  });

  test("I10: a program of more than 256 MiB is nobody's caller: no more of it is hashed", async () => {
    const spawner = await bench.started();
    const directory = mkdtempSync(join(tmpdir(), "ironclaw-large-"));
    const answerOf = async (size: number) => {
      const path = join(directory, `${size}`);
      copyFileSync(realpathSync("/usr/bin/sleep"), path);
      truncateSync(path, size);
      const sleeper = spawn(path, ["60"]);
      await once(sleeper, "spawn");
      const asked = spawner.client.peerExe(await spawner.pidfd(sleeper.pid ?? -1));
      return asked.then((peer) => peer.path === path, String).finally(() => sleeper.kill("SIGKILL"));
    };
    try {
      expect(await answerOf(256 << 20)).toBe(true);
      expect(await answerOf((256 << 20) + 1)).toMatch(/peer executable: File too large/);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test("a process that has ended is nobody's caller", async () => {
    const spawner = await bench.started();
    const sleeper = spawn("sleep", ["60"]);
    await once(sleeper, "spawn");
    const pidfd = await spawner.pidfd(sleeper.pid ?? -1);
    sleeper.kill("SIGKILL");
    await once(sleeper, "exit");
    await expect(spawner.client.peerExe(pidfd)).rejects.toThrow(/ended/);
  });
});
