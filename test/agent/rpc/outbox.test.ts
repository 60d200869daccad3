import { describe, expect, test } from "vitest";
import { Outbox } from "../../../agent/rpc/outbox.ts";

const filled = (byte: number) => new Uint8Array(3).fill(byte);
const isWiped = (bytes: Uint8Array) => bytes.every((byte) => byte === 0);

describe("replies on their way", () => {
  test("I4: are wiped once the kernel has them, alone or many in one write, and not before", async () => {
    const given: Uint8Array[] = [];
    const seen: string[] = [];
    const taken = Promise.withResolvers<void>();
    const outbox = new Outbox({
      write: async (bytes) => {
        given.push(bytes);
        seen.push(bytes.join(""));
        await taken.promise;
        expect(bytes.join("")).toBe(seen.at(-1));
      },
    });
    const alone = filled(1);
    const first = outbox.send(alone);
    await expect.poll(() => seen).toEqual(["111"]);
    const together = [filled(2), filled(3)];
    const rest = together.map((bytes) => outbox.send(bytes));
    expect(isWiped(alone)).toBe(false);
    taken.resolve();
    await Promise.all([first, ...rest]);
    expect(seen).toEqual(["111", "222333"]);
    expect([alone, ...together, ...given].every(isWiped)).toBe(true);
  });

  test("I4: are wiped when nobody will ever take them, and each sender hears of it", async () => {
    const outbox = new Outbox({ write: () => Promise.reject(new Error("gone")) });
    const replies = [filled(1), filled(2)];
    const outcomes = await Promise.allSettled(replies.map((bytes) => outbox.send(bytes)));
    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    expect(replies.every(isWiped)).toBe(true);
    await expect(outbox.send(filled(3))).rejects.toThrow("gone");
  });
});
