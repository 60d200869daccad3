/** Milliseconds of each of so many runs; what each opened is given back outside its time. */
export async function timesOf<T>(
  runs: number,
  act: () => Promise<T>,
  after: (made: T) => Promise<unknown> = async () => undefined,
): Promise<readonly number[]> {
  const times: number[] = [];
  for (let run = 0; run < runs; run++) {
    const start = performance.now();
    const made = await act();
    times.push(performance.now() - start);
    await after(made);
  }
  return times;
}
