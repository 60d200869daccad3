import { describe, expect, test, vi } from "vitest";
import { watchDevices } from "../../../agent/shims/device-watch.ts";
import type { DeviceChange } from "../../../attest/index.ts";

describe("devices that come and go", () => {
  test("I5: are each told once, also after a list that could not be read", async () => {
    const lists: (readonly string[] | null)[] = [["a"], null, ["a", "b"], ["a", "b"], ["b"]];
    const seen: DeviceChange[] = [];
    const { promise: over, resolve } = Promise.withResolvers<void>();
    const stop = watchDevices({
      list: async () => {
        const next = lists.shift();
        if (lists.length === 0) resolve();
        if (next === null) throw new Error("gone while it was read");
        return next ?? ["b"];
      },
      ...{ measured: ["a"], interval: 2, onChange: (changes) => seen.push(...changes) },
      onUnreadable: (why) => expect.fail(why),
    });
    await over;
    await expect.poll(() => seen.length).toBe(2);
    stop();
    expect(seen).toEqual([
      { device: "b", change: "added" },
      { device: "a", change: "removed" },
    ]);
  });

  /** Looks once for each of these lists, null for one that cannot be read, and tells how often that was reported. */
  async function lookAt(lists: readonly (readonly string[] | null)[]) {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    const left = [...lists];
    const [seen, unreadable]: [DeviceChange[], string[]] = [[], []];
    const stop = watchDevices({
      list: async () => {
        const next = left.shift();
        if (next === null || next === undefined) throw new Error("EIO: i/o error");
        return next;
      },
      ...{ measured: ["a"], onChange: (changes) => seen.push(...changes) },
      onUnreadable: (why) => unreadable.push(why),
    });
    try {
      await vi.advanceTimersByTimeAsync(1_000 * lists.length);
    } finally {
      stop();
      vi.useRealTimers();
    }
    return { seen, unreadable };
  }
  const failed = (times: number) => Array<null>(times).fill(null);

  test("I5: cannot be hidden by lists that fail: the fifth in a row is told", async () => {
    expect((await lookAt(failed(4))).unreadable).toEqual([]);
    expect((await lookAt(failed(5))).unreadable).toEqual(["EIO: i/o error"]);
    expect((await lookAt(failed(12))).unreadable).toHaveLength(1);
  });

  test("I5: four failures, a list and four failures are none in a row, and what came meanwhile is told", async () => {
    const { seen, unreadable } = await lookAt([...failed(4), ["a", "b"], ...failed(4)]);
    expect([seen, unreadable]).toEqual([[{ device: "b", change: "added" }], []]);
  });

  test("I5: a look that never ends counts as failed looks do", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    const unreadable: string[] = [];
    const stop = watchDevices({
      ...{ list: () => new Promise(() => undefined), measured: [], onChange: () => undefined },
      onUnreadable: (why) => unreadable.push(why),
    });
    try {
      await vi.advanceTimersByTimeAsync(6_000);
    } finally {
      stop();
      vi.useRealTimers();
    }
    expect(unreadable).toEqual(["a look that does not end"]);
  });
});
