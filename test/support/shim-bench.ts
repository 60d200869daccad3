import { afterAll, beforeAll } from "vitest";
import type { Native } from "../../agent/native/index.ts";
import {
  type Bench,
  makeToken,
  native,
  openBench,
  type Started,
  type StartOptions,
  startShim,
  type Token,
  writeHostProfile,
} from "./shim-fixture.ts";

/** What one test file needs of shims: a token with two keys, the local profile for it, and shims that end with the file that started them. */
export interface ShimBench {
  readonly addon: Native;
  /** From `beforeAll` on. */
  readonly bench: Bench;
  readonly token: Token;
  readonly profile: string;
  /** Those that end with the file. */
  readonly running: Pick<Started, "child">[];
  /** Default: with the profile, and the token's environment beside what is given. */
  start(options?: Partial<StartOptions>): Promise<Started>;
}

/** Call it once in a file, outside of every test and before the file's own `beforeAll`. */
export function openShimBench(): ShimBench {
  const addon = native();
  const running: ShimBench["running"] = [];
  let made: Pick<ShimBench, "bench" | "token" | "profile"> | null = null;
  const opened = () => {
    if (made === null) throw new Error("the token is made before the first test");
    return made;
  };
  beforeAll(() => {
    const bench = openBench();
    const token = makeToken(bench);
    made = { bench, token, profile: writeHostProfile(bench, token) };
  });
  afterAll(() => {
    for (const { child } of running) child.kill("SIGKILL");
    made?.bench.remove();
  });
  return {
    addon,
    running,
    get bench() {
      return opened().bench;
    },
    get token() {
      return opened().token;
    },
    get profile() {
      return opened().profile;
    },
    start: async (options = {}) => {
      const { profile, token } = opened();
      const environment = { ...token.environment, ...options.environment };
      const started = await startShim(addon, { profile, timeoutMs: 20_000, ...options, environment });
      running.push(started);
      return started;
    },
  };
}
