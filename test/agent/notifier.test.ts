import { execFileSync } from "node:child_process";
import { openSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Bench, native, openBench, startShim, writeHostProfile } from "../support/shim-fixture.ts";

const SUPPORT = resolve(import.meta.dirname, "../support");

let bench: Bench;
let profile: string;
beforeAll(() => {
  bench = openBench();
  profile = writeHostProfile(bench, null);
});
afterAll(() => bench.remove());

describe("the notifier of a shim's attempts", () => {
  test("I5: goes on when the kernel interrupts it, in every call, and each attempt is answered and counted once, at the agent's own priority", async () => {
    const preload = join(bench.directory, "interrupted.so");
    execFileSync("gcc", ["-shared", "-fPIC", "-D_GNU_SOURCE", "-o", preload, join(SUPPORT, "interrupted.c"), "-ldl"]);
    const run = (env: NodeJS.ProcessEnv): unknown => {
      const args = [join(SUPPORT, "interrupted-watch.ts"), profile];
      return JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8", env: { ...process.env, ...env } }));
    };
    const undisturbed = run({});
    expect(undisturbed).toMatchObject({ blind: false, slower: 0 });
    expect(run({ LD_PRELOAD: preload })).toEqual(undisturbed);
  });

  test("I5: is not blind when the shim ends", async () => {
    const { shim, child, ended } = await startShim(native(), { profile });
    await shim.probe();
    child.kill("SIGKILL");
    await ended;
    await shim.closed;
    expect(shim.watch.blind()).toBe(false);
    expect(shim.watch.total()).toBeGreaterThan(0);
  });

  test("I5: says that it is blind when it ends and the shim may live", async () => {
    // Readable, and no listener: what it answers to the order is no end of a shim.
    const watch = native().watchNotifications(openSync("/dev/zero", "r"), () => undefined);
    await expect.poll(() => watch.blind(), { timeout: 20_000 }).toBe(true);
    expect(watch.total()).toBe(0);
  });
});
