import { describe, expect, test } from "vitest";
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
    });
    await over;
    await expect.poll(() => seen.length).toBe(2);
    stop();
    expect(seen).toEqual([
      { device: "b", change: "added" },
      { device: "a", change: "removed" },
    ]);
  });
});
