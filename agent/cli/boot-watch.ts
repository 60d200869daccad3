import { readFileSync } from "node:fs";
import type { LaunchOutcome, RunningMachine } from "../../vm-images/running.ts";
import type { CommandIo } from "./command.ts";

export interface Watch {
  readonly io: CommandIo;
  readonly since: number;
  readonly running: RunningMachine;
}

/** Tells each phase when it has ended, with its seconds: firmware and kernel as the console shows them, the launch as the agent says. */
export async function watchLaunch({ io, since, running }: Watch): Promise<LaunchOutcome> {
  const tell = (phase: string, ms: number) =>
    io.complain(`boot: ${phase.padEnd(14)} ${(ms / 1000).toFixed(1).padStart(6)} s`);
  let before = since;
  const mark = (phase: string) => {
    const now = performance.now();
    tell(phase, now - before);
    before = now;
  };
  const console = new ConsoleWatch(running.vm.consoleLog, () => mark("firmware"));
  try {
    let first = true;
    return await running.launched(({ phase, ms }) => {
      console.close();
      if (first) mark("kernel, agent");
      first = false;
      tell(phase, ms);
    });
  } finally {
    console.close();
  }
}

/** Calls once, when the kernel's own loader has said its first word on the serial console: the firmware has ended. */
class ConsoleWatch {
  readonly #timer: NodeJS.Timeout;

  constructor(path: string, onKernel: () => void) {
    this.#timer = setInterval(() => {
      if (!/EFI stub|Linux version/.test(read(path))) return;
      this.close();
      onKernel();
    }, 100).unref();
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return ""; // QEMU has not made it yet
  }
}

/** Ctrl-C, or an end that was asked for: the machine is stopped, and what the guest flushed is on its disks. */
export class Interrupt {
  readonly asked: Promise<null>;
  readonly #listen: () => void;

  constructor() {
    const { promise, resolve: ask } = Promise.withResolvers<null>();
    this.asked = promise;
    this.#listen = () => ask(null);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, this.#listen);
  }

  [Symbol.dispose](): void {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.off(signal, this.#listen);
  }
}
