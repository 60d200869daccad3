/** A seeded generator: the same seed gives the same run. */
export interface Random {
  /** A whole number from 0 to `limit` - 1. */
  below(limit: number): number;
  /** One of `choices`, which is not empty. */
  pick<T>(choices: readonly T[]): T;
}

/** sfc32 (PractRand), the first words dropped. */
export function seededRandom(seed: number): Random {
  let [a, b, c, count] = [seed | 0, 0x9e3779b9 | 0, (seed ^ 0x243f6a88) | 0, 1];
  const next = (): number => {
    const sum = (((a + b) | 0) + count) | 0;
    count = (count + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return sum >>> 0;
  };
  for (let index = 0; index < 12; index++) next();
  const below = (limit: number): number => Math.floor((next() / 2 ** 32) * limit);
  return { below, pick: (choices) => choices[below(choices.length)] as (typeof choices)[number] };
}
