import { createHash } from "node:crypto";
import { mkdtempSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { ByteWriter, concatBytes, utf8 } from "../../policy/index.ts";
import { openSpawnerBench } from "./spawner/bench.ts";
import type { HostSpawner } from "./spawner/host.ts";

const bench = openSpawnerBench();

describe("open-state", () => {
  const KEY = concatBytes(Uint8Array.of(0, 96), new Uint8Array(96).fill(7));
  const SIZE = 80 << 20;

  function stateDisk(bytes: Uint8Array = new Uint8Array(), size = SIZE): string {
    const path = join(mkdtempSync(join(bench.programs.directory, "state-")), "disk");
    writeFileSync(path, bytes);
    truncateSync(path, size);
    return path;
  }

  /** Magic, version 1, an id, the disk's size, zeros, checksum (SPAWNER.md). */
  function header(size = SIZE): Uint8Array {
    const fields = new ByteWriter().bytes(utf8("IRONSTAT")).u32(1).bytes(new Uint8Array(16).fill(9)).u64(BigInt(size));
    const start = concatBytes(fields.finish(), new Uint8Array(4028));
    return concatBytes(start, createHash("sha256").update(start).digest());
  }

  async function refusal(state: string | undefined, format: boolean, key = KEY, keepOpen = false): Promise<unknown> {
    const spawner = await bench.started(state === undefined ? {} : { state });
    const { read } = await spawner.pipe(key, keepOpen);
    return spawner.client.openState({ format }, read).then(
      () => "opened",
      (error: { state?: string }) => error.state,
    );
  }

  test("I11: without a disk, on a blank one and on a truncated one the answer says which it is", async () => {
    expect(await refusal(undefined, true)).toBe("state-missing");
    expect(await refusal(stateDisk(), false)).toBe("state-blank");
    expect(await refusal(stateDisk(new Uint8Array(), SIZE - 1), true)).toBe("state-truncated");
    expect(await refusal(stateDisk(header(SIZE + 4096)), true)).toBe("state-truncated");
  });

  test("I11: the header that the document describes is read; every other one is damaged, and none is formatted over", async () => {
    const superblock = utf8("integrt\0");
    // A plain file cannot be mapped, so that a good disk and a good key end at the kernel.
    expect(await refusal(stateDisk(concatBytes(header(), superblock)), false)).toBe("state-kernel");
    expect(await refusal(stateDisk(header()), true)).toBe("state-damaged");
    for (const at of [0, 11, 12, 35, 36, 4063, 4064, 4095]) {
      const changed = header();
      const path = stateDisk(concatBytes(changed.with(at, (changed[at] ?? 0) ^ 1), superblock));
      expect(await refusal(path, true), `${at}`).toBe("state-damaged");
    }
  });

  test.each([
    ["empty", new Uint8Array()],
    ["without its last byte", KEY.subarray(0, -1)],
    ["with a byte too many", concatBytes(KEY, Uint8Array.of(0))],
    ["with another length before it", KEY.with(1, 95)],
    ["longer than a pipe's page", new Uint8Array(8192)],
  ])("I4: a key pipe that is %s is no key", async (_what, bytes) => {
    const path = stateDisk();
    expect(await refusal(path, true, bytes)).toBe("state-key");
    expect(statSync(path).blocks).toBe(0);
  });

  test("I10: a key pipe that does not end is given up after ten seconds, whether its bytes are there or not", async () => {
    const answers = Promise.all([
      refusal(stateDisk(), true, KEY, true),
      refusal(stateDisk(), true, new Uint8Array(), true),
    ]);
    expect(await answers).toEqual(["state-key", "state-key"]);
  });

  test("I3: the agent's end is noticed while its key is waited for", async () => {
    const spawner = await bench.started({ state: stateDisk() });
    const { read } = await spawner.pipe(KEY, true);
    void spawner.client.openState({ format: true }, read).catch(() => undefined);
    await delay(200);
    const begin = performance.now();
    process.kill(await spawner.logged(/agent started, pid (\d+)/), "SIGKILL");
    expect([10, 11]).toContain(await spawner.ended());
    expect(performance.now() - begin).toBeLessThan(5_000);
  });

  test("I4: what the log says about a key is not the key", async () => {
    const spawner = await bench.started({ state: stateDisk() });
    const { read } = await spawner.pipe(concatBytes(utf8("\0\x60"), utf8("SECRET".repeat(17))));
    await expect(spawner.client.openState({ format: true }, read)).rejects.toThrow(/state-key/);
    await expect.poll(() => spawner.log(), { timeout: 20_000 }).toContain("state volume: state-key");
    expect(spawner.log()).not.toContain("SECRET");
  });

  test("I3: a second request, one with the wrong mode, or without the reading end of a pipe is a breach", async () => {
    const blank = stateDisk();
    const cases: readonly ((spawner: HostSpawner) => Promise<unknown>)[] = [
      async (spawner) => {
        await spawner.packet(Uint8Array.of(7, 0), [(await spawner.pipe(KEY)).read]);
        return spawner.packet(Uint8Array.of(7, 0), [(await spawner.pipe(KEY)).read]);
      },
      async (spawner) => spawner.packet(Uint8Array.of(7, 2), [(await spawner.pipe(KEY)).read]),
      async (spawner) => spawner.packet(Uint8Array.of(7), [(await spawner.pipe(KEY)).read]),
      async (spawner) => spawner.packet(Uint8Array.of(7, 0, 0), [(await spawner.pipe(KEY)).read]),
      async (spawner) => spawner.packet(Uint8Array.of(7, 0), [(await spawner.pipe(KEY, true)).write]),
      async (spawner) => spawner.packet(Uint8Array.of(7, 0), [0]),
      async (spawner) => spawner.packet(Uint8Array.of(7, 0)),
      async (spawner) => {
        await spawner.packet(Uint8Array.of(6));
        return spawner.packet(Uint8Array.of(7, 0), [(await spawner.pipe(KEY)).read]);
      },
    ];
    for (const [index, act] of cases.entries()) {
      const spawner = await bench.started({ state: blank });
      await expect(act(spawner), `${index}`).rejects.toThrow();
      expect(await spawner.ended(), `${index}`).toBe(11);
    }
  });
});
