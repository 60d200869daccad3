import { copyFile, mkdtemp, open, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Image } from "../../vm-images/build.ts";
import { bootBare } from "../support/bare-machine.ts";
import { firmwareSays } from "../support/firmware-console.ts";
import { imageOf } from "../support/vm-machine.ts";

// An image's own two disks, changed by whoever has the host's storage. What is measured stays what was measured: the root's hash stands on
// the command line, and the boot disk is measured as it is started (story.test.ts shows the TPM's part).

const PATIENCE = 300_000;
const BLOCK = 4096;
let directory: string;
let image: Image;
let dataBlocks: number;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "idisks-"));
  image = await imageOf("release", "cloud");
  dataBlocks = Number(/verity=(\d+):/.exec(image.manifest.commandLine)?.[1]);
});
afterAll(() => rm(directory, { recursive: true, force: true }));

async function overwrite(path: string, at: number, bytes: Uint8Array): Promise<void> {
  const file = await open(path, "r+");
  try {
    await file.write(bytes, 0, bytes.length, at);
  } finally {
    await file.close();
  }
}

/** Boot the release's kernel and initrd on that disk, with the command line that the release measures, until the machine ends by itself. */
async function bootOn(root: string, name: string): Promise<string> {
  const verity = /verity=\S+/.exec(image.manifest.commandLine)?.[0] ?? "";
  const init = await readFile(join(image.directory, "native/init"));
  const vm = await bootBare({ root: { path: root, verity, init }, recipe: "cloud", directory: join(directory, name) });
  try {
    const ended = await Promise.race([vm.exited.then(() => "by itself"), sleep(PATIENCE, "not at all")]);
    const log = await readFile(vm.consoleLog, "latin1");
    expect([ended, log]).toEqual(["by itself", expect.any(String)]);
    return log;
  } finally {
    await vm.stop();
  }
}

describe("a root disk that is not the released one", () => {
  const CORRUPTED =
    /device-mapper: verity: [^\n]* (?:data|metadata) block \d+ is corrupted|Kernel panic[^\n]*dm-verity/;

  it.each([
    [
      "cut before its hash tree",
      (path: string) => truncate(path, dataBlocks * BLOCK),
      /initrd: dm-verity: [^\n]*powering off/,
    ],
    ["empty", (path: string) => truncate(path, BLOCK), /initrd: dm-verity: [^\n]*powering off/],
    [
      "with one byte of its superblock changed",
      (path: string) => overwrite(path, 1024 + 80, Uint8Array.of(0xa5)),
      CORRUPTED,
    ],
    ["with a hash tree of zeros", (path: string) => zeroTree(path), CORRUPTED],
    ["with its first and second half swapped", (path: string) => swapHalves(path), CORRUPTED],
  ])("I1 I2: %s ends the machine before anything of it runs", async (what, change, expected) => {
    const name = what.replaceAll(" ", "-").slice(0, 24);
    const path = join(directory, `${name}.img`);
    await copyFile(image.root, path);
    await change(path);
    const log = await bootOn(path, name);
    expect(log).toMatch(expected);
    expect(log).not.toMatch(/spawner|variant/);
    await rm(path);
  });

  it("I1: is told apart from the released one, which runs", async () => {
    const verity = /verity=\S+/.exec(image.manifest.commandLine)?.[0] ?? "";
    const init = await readFile(join(image.directory, "native/init"));
    const order = { root: { path: image.root, verity, init }, recipe: "cloud", directory: join(directory, "own") };
    const vm = await bootBare(order);
    try {
      await expect.poll(() => readFile(vm.consoleLog, "latin1"), { timeout: PATIENCE }).toMatch(/variant/);
    } finally {
      await vm.stop();
    }
  });

  async function zeroTree(path: string): Promise<void> {
    const { size } = await stat(path);
    await overwrite(path, dataBlocks * BLOCK, new Uint8Array(size - dataBlocks * BLOCK));
  }

  async function swapHalves(path: string): Promise<void> {
    const bytes = await readFile(path);
    const middle = Math.floor(dataBlocks / 2) * BLOCK;
    await overwrite(path, 0, Buffer.concat([bytes.subarray(middle, 2 * middle), bytes.subarray(0, middle)]));
  }
});

describe("a boot disk that is not the released one", () => {
  const NOTHING = /BdsDxe: (?:failed to load|failed to start|No bootable option)/;

  it.each([
    ["cut in the middle of the kernel image", async (path: string) => truncate(path, 6 * 1024 * 1024)],
    ["without a file system", (path: string) => writeFile(path, new Uint8Array(1 << 20).fill(0x5a))],
    ["whose kernel image is no program", async (path: string) => overwriteMarker(path)],
  ])("I2: %s is not started, and nothing else is", async (what, change) => {
    const path = join(directory, "esp.img");
    await copyFile(image.esp, path);
    await change(path);
    const said = await firmwareSays(image, path, directory);
    expect([what, said]).toEqual([what, expect.stringMatching(NOTHING)]);
    expect(said).not.toMatch(/initrd:|variant|Linux version/);
  });

  /** The first bytes of the only file: "MZ". */
  async function overwriteMarker(path: string): Promise<void> {
    const at = (await readFile(path)).indexOf((await readFile(image.uki)).subarray(0, 64));
    expect(at).toBeGreaterThan(0);
    await overwrite(path, at, Uint8Array.of(0, 0));
  }
});
