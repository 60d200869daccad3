import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { type KernelProbe, NOT_PROBED } from "./kernel.ts";

const run = promisify(execFile);
const LINE = /^(landlock|userNotification|pidfd|peerPidfd|ioUring) (\d{1,3})$/;

/** Asks the kernel through `kernel-probe`. What it does not say, or when it is not there, stays null. */
export async function probeKernel(program: string): Promise<KernelProbe> {
  const answered = await run(program, [], { timeout: 10_000, maxBuffer: 4096, env: {} }).catch(() => null);
  return answered === null ? NOT_PROBED : parseProbe(answered.stdout);
}

export function parseProbe(text: string): KernelProbe {
  const said = new Map<string, number>();
  for (const line of text.split("\n")) {
    const [, word, value] = LINE.exec(line) ?? [];
    if (word !== undefined) said.set(word, Number(value));
  }
  const flag = (word: string) => (said.has(word) ? said.get(word) !== 0 : null);
  return {
    landlock: said.get("landlock") ?? null,
    userNotification: flag("userNotification"),
    pidfd: flag("pidfd"),
    peerPidfd: flag("peerPidfd"),
    ioUring: flag("ioUring"),
  };
}
