import { rmSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Run `act` with an empty directory of its own (mode 0700), gone afterwards: also when a signal ends this process. */
export async function withScratch<T>(prefix: string, act: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), prefix));
  // A machine that is being killed may still be writing into it.
  const atExit = (): void => rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
  process.once("exit", atExit);
  try {
    return await act(directory);
  } finally {
    process.off("exit", atExit);
    await rm(directory, { recursive: true, force: true });
  }
}
