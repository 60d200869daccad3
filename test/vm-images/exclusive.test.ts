import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { exclusively } from "../../vm-images/exclusive.ts";

const directory = mkdtempSync(join(tmpdir(), "exclusive-"));
afterAll(() => rmSync(directory, { recursive: true }));

const MODULE = new URL("../../vm-images/exclusive.ts", import.meta.url);

/** Another process that is at it until it is killed. */
async function occupy(): Promise<ChildProcess> {
  const source = `const { exclusively } = await import(${JSON.stringify(MODULE.href)});
    await exclusively(${JSON.stringify(directory)}, () => { console.log("in"); return new Promise((done) => setTimeout(done, 1e6)); });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", source], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  return child;
}

describe("what one process does in a folder at a time", () => {
  it("I12: is done by one after the other, each of which sees what the one before it has finished", async () => {
    let inside = 0;
    const seen: number[] = [];
    const waits: number[] = [];
    const work = async () => {
      expect(++inside).toBe(1);
      await new Promise((done) => setTimeout(done, 20));
      inside--;
    };
    const turns = [0, 1, 2, 3].map((turn) =>
      exclusively(
        directory,
        () => work().then(() => seen.push(turn)),
        () => waits.push(turn),
      ),
    );
    await Promise.all(turns);
    expect(seen.toSorted()).toEqual([0, 1, 2, 3]);
    expect(new Set(waits).size).toBe(3);
    expect(readdirSync(directory)).toEqual([]);
  });

  it("I12: waits for a process that is at it, and goes on when that one is killed", async () => {
    const other = await occupy();
    let waited = false;
    let done = false;
    const turn = exclusively(
      directory,
      async () => {
        done = true;
      },
      () => {
        waited = true;
      },
    );
    await expect.poll(() => waited, { timeout: 60_000 }).toBe(true);
    expect(done).toBe(false);
    other.kill("SIGKILL");
    await turn;
    expect(done).toBe(true);
  });

  it("gives what fails in it to whoever asked, and lets the next one in", async () => {
    const fails = exclusively(directory, () => Promise.reject(new TypeError("its own")));
    await expect(fails).rejects.toThrow("its own");
    expect(await exclusively(directory, async () => 7)).toBe(7);
  });

  it("refuses a folder that is not there, by name", async () => {
    const path = join(directory, "none");
    await expect(exclusively(path, async () => 1)).rejects.toMatchObject({
      code: "ERR_IMAGE_PLACE",
      message: expect.stringContaining(path),
    });
  });
});
