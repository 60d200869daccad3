import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FailureBudget, FailureBudgets, type Reservation } from "../../agent/broker/failure-budget.ts";

const HOUR = 3_600_000;

async function taken(budget: FailureBudget): Promise<Reservation> {
  const place = await budget.reserve();
  if (place === null) throw new Error("the budget is empty");
  return place;
}

/** Whether a promise has settled once everything that is ready has run. */
async function isPending(promise: Promise<unknown>): Promise<boolean> {
  const pending = Symbol("pending");
  return (await Promise.race([promise, new Promise((resolve) => setImmediate(resolve, pending))])) === pending;
}

describe("failure budget", () => {
  it("I7: failures spend, successes do not, and time gives back", async () => {
    let now = 0;
    const budget = new FailureBudget({ perHour: 60, burst: 2 }, () => now);
    for (let index = 0; index < 100; index += 1) (await taken(budget)).settle(false);
    expect(budget.left()).toBe(2);
    for (let index = 0; index < 2; index += 1) (await taken(budget)).settle(true);
    expect(await budget.reserve()).toBeNull();
    now += HOUR / 60 - 1;
    expect(await budget.reserve()).toBeNull();
    now += 1;
    (await taken(budget)).settle(true);
    now += HOUR;
    expect(budget.left()).toBe(2);
  });

  it("I7: with every place taken the next one waits for an answer: it goes on after a success, and is refused after the last failure", async () => {
    const budget = new FailureBudget({ perHour: 1, burst: 2 }, () => 0);
    const [first, second] = [await taken(budget), await taken(budget)];
    const waiting = [budget.reserve(), budget.reserve()] as const;
    expect(await isPending(waiting[0])).toBe(true);
    first.settle(false);
    const third = await waiting[0];
    expect(await isPending(waiting[1])).toBe(true);
    second.settle(true);
    expect(await isPending(waiting[1])).toBe(true);
    third?.settle(true);
    expect(await waiting[1]).toBeNull();
  });

  it("I10: an answer wakes as many as there are places, in the order in which they came, and looks at none of the others", async () => {
    let looks = 0;
    const clock = () => {
      looks += 1;
      return 0;
    };
    const budget = new FailureBudget({ perHour: 1, burst: 2 }, clock);
    const [first, second] = [await taken(budget), await taken(budget)];
    const woken: number[] = [];
    const places: (Reservation | null)[] = [];
    for (let index = 0; index < 1000; index += 1)
      void budget.reserve().then((place) => {
        woken.push(index);
        places.push(place);
      });
    looks = 0;
    first.settle(false);
    await new Promise((resolve) => setImmediate(resolve));
    expect(woken).toEqual([0]);
    second.settle(true);
    places[0]?.settle(false);
    await new Promise((resolve) => setImmediate(resolve));
    expect(woken).toEqual([0, 1]);
    expect(looks).toBeLessThan(10);
  });

  it("I7: however many ask at once and in whatever order they are answered, no more fail than the budget and the time allow", async () => {
    const answers = fc.array(fc.record({ failed: fc.boolean(), gap: fc.nat(60_000), pick: fc.nat() }), {
      maxLength: 80,
    });
    await fc.assert(
      fc.asyncProperty(answers, fc.integer({ min: 1, max: 5 }), async (list, burst) => {
        let now = 0;
        let failures = 0;
        const budget = new FailureBudget({ perHour: 60, burst }, () => now);
        const open: Reservation[] = [];
        let refused = 0;
        for (const _ of list) {
          void budget.reserve().then((place) => {
            if (place === null) refused += 1;
            else open.push(place);
          });
        }
        for (const { failed, gap, pick } of list) {
          await new Promise((resolve) => setImmediate(resolve));
          expect(open.length).toBeLessThanOrEqual(burst);
          const [place] = open.splice(pick % Math.max(1, open.length), 1);
          now += gap;
          place?.settle(failed);
          if (place !== undefined && failed) failures += 1;
          expect(failures).toBeLessThanOrEqual(burst + now / 60_000 + 1e-6);
        }
        await new Promise((resolve) => setImmediate(resolve));
        // Nobody waits for ever.
        for (const place of open.splice(0)) place.settle(false);
        await new Promise((resolve) => setImmediate(resolve));
        expect(refused + failures).toBeLessThanOrEqual(list.length);
      }),
      { numRuns: 50 },
    );
  });

  it("I7: a key has one budget, and cannot have another beside it", () => {
    const budgets = new FailureBudgets(() => 0);
    const limits = { perHour: 60, burst: 16 };
    expect(budgets.of("rsa 01", limits)).toBe(budgets.of("rsa 01", { ...limits }));
    expect(budgets.of("rsa 01", limits)).not.toBe(budgets.of("rsa 02", limits));
    for (const other of [
      { perHour: 60, burst: 17 },
      { perHour: 61, burst: 16 },
    ])
      expect(() => budgets.of("rsa 01", other)).toThrow(expect.objectContaining({ code: "ERR_LAUNCH" }));
  });
});
