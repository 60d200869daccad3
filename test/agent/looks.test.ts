import { describe, expect, it } from "vitest";
import { lookInTurns } from "../../agent/looks.ts";
import type { PeerExe } from "../../agent/spawner-client.ts";

/** A spawner whose looks last until somebody ends them. */
function openBench() {
  const begun: { readonly pidfd: number; readonly end: (pid: number | Error) => void }[] = [];
  const look = lookInTurns((pidfd) => {
    const { promise, resolve, reject } = Promise.withResolvers<PeerExe>();
    const end = (pid: number | Error) =>
      pid instanceof Error ? reject(pid) : resolve({ pid, sha256: new Uint8Array(32), path: "/x" });
    begun.push({ pidfd, end });
    return promise;
  });
  const end = async (at: number, pid: number | Error) => {
    begun[at]?.end(pid);
    await new Promise(setImmediate);
  };
  return { look, end, pidfds: () => begun.map(({ pidfd }) => pidfd) };
}

describe("looks at callers", () => {
  it("I10: of one user are made one after the other, of different users side by side", async () => {
    const { look, end, pidfds } = openBench();
    const looks = [look(10, { pid: 1, uid: 7 }), look(11, { pid: 2, uid: 7 }), look(12, { pid: 3, uid: 8 })];
    expect(pidfds()).toEqual([10, 12]);
    await end(1, 3);
    expect(pidfds()).toEqual([10, 12]);
    await end(0, 1);
    expect(pidfds()).toEqual([10, 12, 11]);
    await end(2, 2);
    expect((await Promise.all(looks)).map(({ pid }) => pid)).toEqual([1, 2, 3]);
  });

  it("I6, I10: whoever asks for one process while it is looked at shares the next look, which began after all of them asked", async () => {
    const { look, end, pidfds } = openBench();
    const who = { pid: 1, uid: 7 };
    const first = look(10, who);
    const next = Array.from({ length: 64 }, (_, index) => look(11 + index, who));
    expect(pidfds()).toEqual([10]);
    await end(0, 1);
    await first;
    expect(pidfds()).toEqual([10, 11]);
    const later = look(99, who);
    await end(1, 1);
    await Promise.all(next);
    expect(pidfds()).toEqual([10, 11, 99]);
    await end(2, 1);
    await later;
  });

  it("that fail are their own askers' only", async () => {
    const { look, end, pidfds } = openBench();
    const failing = Promise.allSettled([look(10, { pid: 1, uid: 7 })]);
    const next = look(11, { pid: 2, uid: 7 });
    await end(0, new Error("it ended"));
    expect(await failing).toMatchObject([{ status: "rejected" }]);
    await end(1, 2);
    await next;
    const last = look(12, { pid: 3, uid: 7 });
    expect(pidfds()).toEqual([10, 11, 12]);
    await end(2, 3);
    expect((await last).pid).toBe(3);
  });
});
