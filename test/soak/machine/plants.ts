import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LAUNCH_PIN } from "../../support/launch-token.ts";

/** What a soak has to find. */
export const PLANTS = ["record", "session", "pin"] as const;
export type Plant = (typeof PLANTS)[number];

/** Cuts a log that nobody writes back to before its last signature: what is left verifies by itself. */
export function cutLog(directory: string): void {
  const segments = readdirSync(directory).filter((name) => name.endsWith(".log"));
  const path = join(directory, segments.sort().at(-1) ?? "");
  const lines = readFileSync(path, "utf8").split("\n");
  const last = lines.findLastIndex((line) => line.includes('"operation":"sign"') && line.includes('"allow"'));
  writeFileSync(
    path,
    lines
      .slice(0, last)
      .map((line) => `${line}\n`)
      .join(""),
  );
}

/** A process that has the PIN in its environment. */
export async function startHolder(): Promise<AsyncDisposable> {
  const child: ChildProcess = spawn("sleep", ["3600"], { env: { PIN: LAUNCH_PIN }, stdio: "ignore" });
  await once(child, "spawn");
  return {
    [Symbol.asyncDispose]: async () => {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    },
  };
}
