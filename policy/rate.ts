/** A scope's limit: `burst` operations at once, then `perMinute`. */
export interface Rate {
  readonly perMinute: number;
  readonly burst: number;
}

/** A token bucket at one moment. `tokens` may be fractional; a whole one pays for one operation. */
export interface TokenBucket {
  readonly tokens: number;
  /** Milliseconds of the caller's clock. */
  readonly at: number;
}

const MINUTE = 60_000;

/** A full bucket. */
export function fullBucket(rate: Rate, now: number): TokenBucket {
  return { tokens: rate.burst, at: now };
}

/**
 * The bucket at `now`. A clock that goes backwards refills nothing and moves nothing: setting it back and forth gains no token.
 */
export function refill(rate: Rate, bucket: TokenBucket, now: number): TokenBucket {
  if (!(now > bucket.at)) return bucket;
  const gained = ((now - bucket.at) * rate.perMinute) / MINUTE;
  return { tokens: Math.min(rate.burst, bucket.tokens + gained), at: now };
}

/** One token less. The caller asked `decide` first, which refuses when there is no whole token. */
export function spend(bucket: TokenBucket): TokenBucket {
  if (bucket.tokens < 1) throw new TypeError("token bucket: nothing to spend");
  return { tokens: bucket.tokens - 1, at: bucket.at };
}
