import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, describe, expect, it } from "vitest";
import { buildImage } from "../../vm-images/build.ts";
import { PLACES } from "../../vm-images/story/story.ts";

// One folder for all of it: each build finds what the one before it, which was killed, has left there.

const directory = mkdtempSync(join(tmpdir(), "crash-"));
const out = join(directory, "image");
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const manifest = join(out, "manifest.json");
const BUILD = new URL("../../vm-images/build.ts", import.meta.url).href;
const OPTIONS = { variant: "demo", cacheDirectory: PLACES.cache } as const;
/** Says each step as it begins. */
const PROGRAM = `const { buildImage } = await import(${JSON.stringify(BUILD)});
  await buildImage({ ...${JSON.stringify({ ...OPTIONS, outDirectory: out })}, onStep: (step) => console.log(step) });`;

/** Killed so many milliseconds after it has begun this step. Resolves with the steps that it began; null if it came to its end before. */
async function killedAt(step: string, after: number): Promise<readonly string[] | null> {
  const child = spawn(process.execPath, ["--input-type=module", "-e", PROGRAM], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "close");
  const begun: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    begun.push(line);
    if (line !== step) continue;
    await delay(after);
    child.kill("SIGKILL");
  }
  const [, signal] = await ended;
  return signal === null ? null : begun;
}

describe("a build that is killed", () => {
  const STEPS = ["packages", "root file system", "kernel image"];
  const places = STEPS.flatMap((step) => [0, 300, 1000, 3000].map((after) => [step, after] as const));

  it.each(places)(
    "I12: at the step %s, %d ms after its beginning, leaves no image that anybody takes for one",
    async (step, after) => {
      rmSync(manifest, { force: true }); // of a build that was quicker than its end
      const begun = await killedAt(step, after);
      if (after === 0) expect(begun?.at(-1)).toBe(step);
      if (begun !== null) expect(existsSync(manifest)).toBe(false);
    },
  );

  it("I12: is done again by the next one, which gives the image of a folder where nothing was", async () => {
    rmSync(manifest, { force: true });
    const again = await buildImage({ ...OPTIONS, outDirectory: out });
    const clean = await buildImage({ ...OPTIONS, outDirectory: join(directory, "clean") });
    expect(again.manifest).toEqual(clean.manifest);
  });
});
