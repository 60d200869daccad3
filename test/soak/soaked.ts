import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { promisify } from "node:util";

export const run = promisify(execFile);
export const SOAK = resolve(import.meta.dirname, "run.ts");
/** In minutes, as the command takes it. */
export const TEN_SECONDS = `${1 / 6}`;

/** What the command told, with its exit code. */
export async function soaked(...args: readonly string[]) {
  const { code, stdout, stderr } = await run(process.execPath, [SOAK, "--json", ...args]).then(
    (done) => ({ ...done, code: 0 }),
    (failed: { code: number; stdout: string; stderr: string }) => failed,
  );
  return { code, stderr, ...JSON.parse(stdout) };
}
