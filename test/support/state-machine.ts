import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { parseOpenStateReply, type StateVolume } from "../../agent/spawner-messages.ts";
import { fromHex } from "../../policy/index.ts";
import { encodeCpio } from "../../vm-images/cpio.ts";
import { listFiles } from "../../vm-images/digest.ts";
import { encodeInitrd, kernelModules } from "../../vm-images/initrd.ts";
import { MACHINE_WORDS } from "../../vm-images/kernel-image.ts";
import { recipeLock } from "../../vm-images/lock.ts";
import { fetchPackages } from "../../vm-images/packages.ts";
import { writableDisk } from "../../vm-images/qemu-args.ts";
import { readRecipe } from "../../vm-images/recipes.ts";
import { stateTemplate } from "../../vm-images/state-template.ts";
import { unpackPackages } from "../../vm-images/unpack.ts";

const root = resolve(import.meta.dirname, "../..");
const PATIENCE = 120_000;
/** As hard as a released image's. */
const COMMAND_LINE = [...MACHINE_WORDS, "lockdown=confidentiality", "init_on_free=1"].join(" ");

/** Kernel and initrd of a machine that runs state-guest.c instead of an image. */
export interface StateMachineFiles {
  readonly directory: string;
  readonly kernel: string;
  readonly initrd: string;
}

export async function buildStateMachine(directory: string): Promise<StateMachineFiles> {
  const cache = join(root, "build/cache");
  const tree = await unpackPackages(
    await fetchPackages(cache, await recipeLock(await readRecipe())),
    ["kernel"],
    cache,
  );
  const [kernel = ""] = await listFiles(join(tree, "boot"), (name) => name.startsWith("vmlinuz-"));
  const program = join(directory, "state-guest");
  const spawner = readdirSync(join(root, "agent/spawner")).filter((name) => name.endsWith(".c") && name !== "main.c");
  execFileSync("gcc-12", [
    ...["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-static", "-o", program],
    ...spawner.map((name) => join(root, "agent/spawner", name)),
    join(root, "vm-images/initrd/modules.c"),
    join(import.meta.dirname, "state-guest.c"),
  ]);
  const initrd = join(directory, "initrd");
  // Two archives behind each other: the kernel unpacks both.
  const template = encodeCpio([{ path: "state-volume.template", mode: 0o644, bytes: await stateTemplate() }]);
  const rest = encodeInitrd(readFileSync(program), await kernelModules(tree));
  await writeFile(initrd, Buffer.concat([template, rest]));
  return { directory, kernel: join(tree, "boot", kernel), initrd };
}

export interface StateMachine {
  /** One line of answer to one line of order. */
  ask(order: string): Promise<string>;
  /** Sends an order and takes lines until `enough` says so; further ones are dropped. */
  follow(order: string, enough: (line: string) => boolean): Promise<void>;
  /** @param seed names a key */
  open(disk: string, options?: { format?: boolean; seed?: number; key?: "short" | "long" }): Promise<StateVolume>;
  close(): Promise<void>;
  console(): string;
  /** As a power cut: QEMU is killed. What the guest had flushed is in the files. */
  cut(): Promise<void>;
}

/** @param disks file by serial */
export async function bootStateMachine(
  { directory, kernel, initrd }: StateMachineFiles,
  disks: Readonly<Record<string, string>>,
): Promise<StateMachine> {
  const [socket, log] = [join(directory, "port"), join(directory, "console")];
  await rm(socket, { force: true });
  const child = spawn("qemu-system-x86_64", [
    ...["-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1"],
    ...["-m", "512", "-vga", "none", "-nic", "none", "-no-reboot", "-display", "none", "-serial", `file:${log}`],
    ...["-kernel", kernel, "-initrd", initrd, "-append", COMMAND_LINE],
    ...Object.entries(disks).flatMap(([serial, file]) => writableDisk(serial, file)),
    ...["-device", "virtio-serial-pci,id=serial0,disable-legacy=on"],
    ...["-chardev", `socket,id=port0,path=${socket},server=on,wait=off`],
    ...["-device", "virtserialport,bus=serial0.0,chardev=port0,nr=1,name=test"],
  ]);
  const ended = once(child, "close");
  const port = await connectTo(socket, child);
  const lines = createInterface({ input: port })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => {
    const line = await Promise.race([lines.next(), delay(PATIENCE, null, { ref: false })]);
    if (line === null || line.done === true) throw new Error(`the guest is silent: ${readFileSync(log, "utf8")}`);
    return line.value;
  };
  const ask = async (order: string): Promise<string> => {
    port.write(`${order}\n`);
    return next();
  };
  while ((await next()) !== "up");
  return {
    ask,
    follow: async (order, enough) => {
      for (let line = await ask(order); !enough(line); ) line = await next();
    },
    open: async (disk, { format = false, seed = 1, key } = {}) =>
      parseOpenStateReply(fromHex(await ask(`open ${disk} ${format ? 1 : 0} ${seed} ${key ?? ""}`))),
    close: async () => {
      const answer = await ask("close");
      if (answer !== "ok") throw new Error(`close: ${answer}`);
    },
    console: () => readFileSync(log, "utf8"),
    cut: async () => {
      child.kill("SIGKILL");
      await ended;
      port.destroy();
    },
  };
}

async function connectTo(path: string, child: ChildProcess): Promise<Socket> {
  let complaint = "";
  child.stderr?.on("data", (text: Buffer) => {
    complaint += text.toString();
  });
  while (child.exitCode === null) {
    const socket = connect(path);
    try {
      await once(socket, "connect");
      return socket;
    } catch {
      socket.destroy();
      await delay(20);
    }
  }
  throw new Error(`qemu: ${complaint}`);
}
