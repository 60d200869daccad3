import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, open, rm } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { resolve as absolute } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { ImageError } from "./errors.ts";
import {
  type BareVmOptions,
  bareQemuArguments,
  findFirmware,
  portNames,
  qemuArguments,
  type VmOptions,
  vmPaths,
} from "./qemu-args.ts";
import { openQmp, type Qmp } from "./qmp.ts";
import { requireSocketPath } from "./swtpm.ts";

/** How a machine ended. `code` is `null` when a signal ended it. */
export interface VmExit {
  readonly code: number | null;
  /** The last lines that QEMU wrote to standard error. */
  readonly stderr: string;
}

export interface Vm extends AsyncDisposable {
  readonly qmp: Qmp;
  /** The guest's serial console. */
  readonly consoleLog: string;
  /** Resolves when QEMU has ended: after a power-off, a reboot (there is none: it ends), a kill. Never rejects. */
  readonly exited: Promise<VmExit>;
  /**
   * Connect to a virtio-serial port. One connection at a time for each port; what the guest writes while nobody is connected
   * may be lost, so connect before the guest comes up.
   */
  port(name: string): Promise<Socket>;
  /** Write all of the guest's memory to `file`, an ELF core of somewhat more than the memory's size. The guest is paused meanwhile. */
  dumpMemory(file: string): Promise<void>;
  /** Kill the machine and wait. May be called twice. */
  stop(): Promise<void>;
}

/** Stands in for QEMU's words when there is no QEMU. */
const NOT_INSTALLED = "not installed";
const DUMP_TIMEOUT_MS = 120_000;
const MIB = 1024 * 1024;
const STATE_BYTES = 80 * MIB;
const STORE_BYTES = MIB;

/**
 * Start a virtual machine; resolves as soon as QEMU answers, long before the guest is up.
 * Throws {@link ImageError} ERR_IMAGE_TOOL when QEMU or the firmware is not installed, ERR_VM_START with QEMU's own words.
 */
export async function bootVm(options: VmOptions): Promise<Vm> {
  const firmware = options.firmware ?? findFirmware();
  const directory = absolute(options.directory);
  await copyFile(firmware.vars, vmPaths(directory).vars);
  return startQemu({ ...options, directory }, qemuArguments({ ...options, directory }, firmware));
}

/** The same from a kernel file; see {@link BareVmOptions}. */
export function bootBareVm(options: BareVmOptions): Promise<Vm> {
  const directory = absolute(options.directory);
  return startQemu({ ...options, directory }, bareQemuArguments({ ...options, directory }));
}

async function startQemu(options: VmOptions | BareVmOptions, args: readonly string[]): Promise<Vm> {
  const paths = vmPaths(options.directory);
  const names = portNames(options);
  for (const path of [paths.qmp, ...names.map(paths.port)]) {
    requireSocketPath(path);
    await rm(path, { force: true });
  }
  await makeBlankDisk(options.state ?? paths.state, STATE_BYTES);
  await makeBlankDisk(options.store ?? paths.store, STORE_BYTES);
  const child = spawn("qemu-system-x86_64", args, {
    stdio: ["ignore", "ignore", "pipe"],
    ...(options.signal === undefined ? {} : { signal: options.signal, killSignal: "SIGKILL" }),
  });
  const exited = endOf(child);
  const stop = async (): Promise<void> => {
    child.kill("SIGKILL");
    await exited;
  };
  try {
    const qmp = await openQmp(await connectWhenReady(paths.qmp, exited));
    return {
      qmp,
      consoleLog: paths.console,
      exited,
      stop,
      port: (name) => {
        if (!names.includes(name)) throw new TypeError(`no port ${name} in this machine`);
        return connectWhenReady(paths.port(name), exited);
      },
      dumpMemory: async (file) => {
        await qmp("dump-guest-memory", { paging: false, protocol: `file:${absolute(file)}` }, DUMP_TIMEOUT_MS);
      },
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    await stop();
    throw await startFailure(exited, error);
  }
}

/** A file of zeros that takes no space yet. One that is there stays as it is: a machine finds again what it wrote. */
export async function makeBlankDisk(path: string, bytes: number): Promise<void> {
  const file = await open(path, "a", 0o600);
  try {
    if ((await file.stat()).size === 0) await file.truncate(bytes);
  } finally {
    await file.close();
  }
}

/** QEMU's own words when it refused to start, which is what closed the connection; else the error itself. */
async function startFailure(exited: Promise<VmExit>, cause: unknown): Promise<unknown> {
  const { code, stderr } = await exited;
  if (stderr === NOT_INSTALLED) {
    return new ImageError("ERR_IMAGE_TOOL", "qemu-system-x86_64: not installed", {
      hint: "apt-get install qemu-system-x86",
    });
  }
  if (code === 0 || (code === null && stderr === "")) return cause; // a signal: ours, or an abort with QEMU's reason
  return new ImageError("ERR_VM_START", `qemu-system-x86_64: ${stderr || `exit code ${code}`}`, { cause });
}

/** Settles when the child is gone or could not start; meanwhile the child does not outlive this process. */
function endOf(child: ChildProcess): Promise<VmExit> {
  const atExit = (): void => void child.kill("SIGKILL");
  process.once("exit", atExit);
  let stderr = "";
  child.stderr?.on("data", (text: Buffer) => {
    stderr = (stderr + text.toString()).slice(-4096);
  });
  return new Promise((resolve) => {
    const ended = (code: number | null): void => {
      process.off("exit", atExit);
      resolve({ code, stderr: stderr.trim() });
    };
    child.once("close", ended);
    child.on("error", (error) => {
      if ("code" in error && error.code === "ENOENT") stderr = NOT_INSTALLED;
      if (child.pid === undefined) ended(null);
    });
  });
}

/** QEMU makes its sockets while it starts: try until one takes the connection, or QEMU is gone. */
async function connectWhenReady(path: string, exited: Promise<VmExit>): Promise<Socket> {
  let exit: VmExit | undefined;
  void exited.then((how) => {
    exit = how;
  });
  for (let tries = 0; tries < 1000 && exit === undefined; tries += 1) {
    const socket = connect(path);
    try {
      await once(socket, "connect");
      return socket;
    } catch {
      socket.destroy();
      await delay(20);
    }
  }
  throw new ImageError(exit === undefined ? "ERR_VM_START" : "ERR_VM_EXITED", `qemu socket ${path}`, {
    expected: "a connection",
    got: exit === undefined ? "none within 20 s" : `qemu ended: ${exit.stderr || `exit code ${exit.code}`}`,
  });
}
