import { chmodSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { writeOutput } from "../../../agent/cli/files.ts";

const isRoot = process.getuid?.() === 0;
/** Somebody who may write into the folder, and give nothing away. */
const SOMEBODY = 2001;

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "ironclaw-output-"));
  chmodSync(directory, 0o777);
});
afterEach(() => rmSync(directory, { recursive: true }));

async function asSomebody(act: () => Promise<void>): Promise<void> {
  if (!isRoot) return act();
  process.setegid?.(SOMEBODY);
  process.seteuid?.(SOMEBODY);
  try {
    await act();
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
  }
}

test("a file that is replaced by somebody who may not give it away is theirs, and their group gets nothing of it", async () => {
  const path = join(directory, "out");
  writeFileSync(path, "before");
  chmodSync(path, 0o664);
  await asSomebody(() => writeOutput(path, "after"));
  const { uid, mode } = statSync(path);
  // Without root there is no other owner than oneself, and the group is the one that was meant.
  expect([uid, mode & 0o777]).toEqual(isRoot ? [SOMEBODY, 0o604] : [process.getuid?.(), 0o664]);
});

test("a file that is new has the mode that the umask leaves", async () => {
  const path = join(directory, "out");
  await writeOutput(path, "text");
  expect(statSync(path).mode & 0o777).toBe(0o666 & ~process.umask());
});
