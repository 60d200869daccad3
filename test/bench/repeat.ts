/** Milliseconds from which on the processor's own account of a thread is fine enough: it moves with the clock's ticks. */
const FINE = 40;

/**
 * Milliseconds that an act takes by itself: the best of its runs, so that what else the machine does counts least. Of long ones, which
 * nothing spares an interruption, this thread's processor time. What a run has opened is given back outside its time.
 */
export async function ownTime<T>(
  runs: number,
  act: () => T | Promise<T>,
  after: (made: T) => unknown = () => undefined,
): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run < runs; run++) {
    const [start, before] = [performance.now(), process.threadCpuUsage()];
    const made = await act();
    const elapsed = performance.now() - start;
    const { user, system } = process.threadCpuUsage(before);
    const processor = (user + system) / 1000;
    best = Math.min(best, processor >= FINE ? Math.min(processor, elapsed) : elapsed);
    await after(made);
  }
  return best;
}

/** Microseconds of each of so many, one after the other, in the best of some runs. */
export async function ownTimeOfEach(count: number, runs: number, act: () => unknown): Promise<number> {
  const milliseconds = await ownTime(runs, async () => {
    for (let index = 0; index < count; index++) {
      const done = act();
      if (done instanceof Promise) await done;
    }
  });
  return (1000 * milliseconds) / count;
}
