import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type DeviceChange, deviceChanges, watchDevices } from "../../../agent/shims/device-watch.ts";

const devices = fc.array(fc.constantFrom<string>("1af4:1041", "1af4:1042", "usb:08e6:4433", "8086:10d3"), {
  maxLength: 8,
});

describe("devices that come and go", () => {
  test("I5: are all found: what was there, with the changes, is what is there", () => {
    fc.assert(
      fc.property(devices, devices, (before, after) => {
        const result = [...before];
        for (const { device, change } of deviceChanges(before, after)) {
          if (change === "added") result.push(device);
          else result.splice(result.indexOf(device), 1);
        }
        expect(result.toSorted()).toEqual(after.toSorted());
      }),
    );
  });

  test("I5: a list in another order, or the same twice, is no change; one more of the same kind is", () => {
    expect(deviceChanges(["a", "b", "a"], ["b", "a", "a"])).toEqual([]);
    expect(deviceChanges(["a"], ["a", "a"])).toEqual([{ device: "a", change: "added" }]);
  });

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
