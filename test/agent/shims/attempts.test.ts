import { afterEach, beforeEach, expect, test } from "vitest";
import { libraryAttempt, libraryAttempts, sumAttempts } from "../../../agent/shims/attempts.ts";
import { syscallNumber } from "../../../policy/runtime/syscalls.ts";
import {
  type Bench,
  native,
  openBench,
  type Started,
  startShim,
  writeHostProfile,
} from "../../support/shim-fixture.ts";

let bench: Bench;
let started: Started;
beforeEach(async () => {
  bench = openBench();
  started = await startShim(native(), { profile: writeHostProfile(bench, null) });
});
afterEach(() => {
  started.child.kill("SIGKILL");
  bench.remove();
});

const execve = syscallNumber("execve") ?? -1;

test("I5: a probe's own attempts are counted and recorded, and after it the record is empty for those of the library", async () => {
  const { watch } = started.shim;
  expect([watch.total(), watch.recorded()]).toEqual([0, []]);
  await started.shim.probe();
  const counts = started.shim.attempts();
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  expect(watch.total()).toBe(total);
  expect(watch.recorded()).toHaveLength(Math.min(64, total));
  expect(watch.recorded()[0]).toMatchObject({ nr: execve, count: 1, args: expect.any(Array) });
  watch.renew();
  expect(watch.recorded()).toEqual([]);
  const probed = { total, counts };
  expect(libraryAttempts(started.shim, probed)).toEqual({});
  await started.shim.probe();
  expect(libraryAttempts(started.shim, probed)).toEqual(counts);
  const [first] = watch.recorded();
  expect(first).toMatchObject({ nr: execve, count: 2 });
  if (first !== undefined) expect(libraryAttempt(first, probed)).toEqual({ ...first, count: 1 });
});

test("I8: what was tried is still known when the shim has ended", async () => {
  await started.shim.probe();
  const before = started.shim.watch.recorded();
  started.child.kill("SIGKILL");
  await started.ended;
  expect(started.shim.watch.recorded()).toEqual(before);
  expect(started.shim.watch.total()).toBeGreaterThan(0);
});

test("counts of several shims add up, call by call", () => {
  expect(sumAttempts([{ 41: 2, 59: 1 }, {}, { 41: 3 }])).toEqual({ 41: 5, 59: 1 });
});
