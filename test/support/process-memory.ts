import { closeSync, openSync, readFileSync, readSync, writeSync } from "node:fs";

/** A mapping of a process in which a text was found. */
export interface Found {
  readonly copies: number;
  /** VmFlags of /proc/PID/smaps: lo locked, dd not in dumps, wf empty in a child. */
  readonly flags: readonly string[];
}

/** Where `secret` is in all readable memory of a process. Only root may look into one that is not dumpable. */
export function findInMemory(pid: number, secret: Uint8Array): readonly Found[] {
  const fd = openSync(`/proc/${pid}/mem`, "r");
  try {
    return readFileSync(`/proc/${pid}/smaps`, "utf8")
      .split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
      .map((mapping) => ({ mapping, bytes: readMapping(fd, mapping) }))
      .map(({ mapping, bytes }) => ({
        copies: countCopies(bytes, secret),
        flags: (/^VmFlags: (.*)$/m.exec(mapping)?.[1] ?? "").trim().split(" "),
      }))
      .filter(({ copies }) => copies > 0);
  } finally {
    closeSync(fd);
  }
}

/**
 * A real fault, at the next instruction after the system call that the process waits in: the first process of a PID namespace does not take a
 * signal from outside for one. Root only.
 */
export function makeFault(pid: number): void {
  const pc = waitingAt(pid);
  const fd = openSync(`/proc/${pid}/mem`, "r+");
  try {
    writeSync(fd, new Uint8Array(16), 0, 16, Number(BigInt(pc)));
  } finally {
    closeSync(fd);
  }
}

/** Where a process goes on after the system call that it waits in. One that has something to do first is waited for. */
function waitingAt(pid: number): string {
  const clock = new Int32Array(new SharedArrayBuffer(4));
  for (let tries = 0; ; tries++) {
    const pc = readFileSync(`/proc/${pid}/syscall`, "utf8").trim().split(" ").at(-1) ?? "";
    if (/^0x[0-9a-f]+$/.test(pc)) return pc;
    if (tries === 10_000) throw new Error(`process ${pid} waits in no system call: ${pc}`);
    Atomics.wait(clock, 0, 0, 1);
  }
}

/** How often each of these is in all readable memory of a process, which is read once. Root only, as above. */
export function countInMemory(pid: number, secrets: readonly Uint8Array[]): readonly number[] {
  const fd = openSync(`/proc/${pid}/mem`, "r");
  try {
    const counts = secrets.map(() => 0);
    for (const mapping of readFileSync(`/proc/${pid}/maps`, "utf8").split("\n")) {
      const bytes = readMapping(fd, mapping);
      for (const [at, secret] of secrets.entries()) counts[at] = (counts[at] ?? 0) + countCopies(bytes, secret);
    }
    return counts;
  } finally {
    closeSync(fd);
  }
}

function readMapping(fd: number, mapping: string): Buffer {
  const [, from = "", to = "", access = ""] = /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(mapping) ?? [];
  if (!access.startsWith("r") || /\[v(var|sys)/.test(mapping)) return Buffer.alloc(0);
  const bytes = Buffer.alloc(Number(BigInt(`0x${to}`) - BigInt(`0x${from}`)));
  try {
    readSync(fd, bytes, 0, bytes.length, BigInt(`0x${from}`));
    return bytes;
  } catch {
    return Buffer.alloc(0); // pages that no one can read, such as [vvar_vclock]
  }
}

function countCopies(bytes: Buffer, secret: Uint8Array): number {
  let copies = 0;
  for (let at = bytes.indexOf(secret); at >= 0; at = bytes.indexOf(secret, at + 1)) copies += 1;
  return copies;
}
