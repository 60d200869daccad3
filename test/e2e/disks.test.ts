import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parsePe, readPeSection } from "../../attest/index.ts";
import { buildImage, type Image } from "../../vm-images/build.ts";
import { openControl } from "../../vm-images/control-client.ts";
import { bootBareVm } from "../../vm-images/qemu.ts";
import { PLACES } from "../../vm-images/story/story.ts";
import { makeTpmState, startSwtpm } from "../../vm-images/swtpm.ts";

// Root disks of whoever can write them, under the kernel, initrd and command line of the image: no firmware, since what is asked here
// comes after it. The other disks have files of their own: state-volume, life and story (boot disk), agent/launch-* (cabinet, store).

const BLOCK = 4096;
const directory = mkdtempSync(join(tmpdir(), "disks-"));
const at = (name: string) => join(directory, name);
let image: Image;
let boots = 0;

beforeAll(async () => {
  const options = { cacheDirectory: PLACES.cache } as const;
  image = await buildImage({ ...options, variant: "demo", outDirectory: PLACES.image("demo") });
  const pe = parsePe(new Uint8Array(readFileSync(image.uki)));
  for (const name of [".linux", ".initrd"]) writeFileSync(at(name), readPeSection(pe, name) ?? "");
  await makeTpmState({ directory: at("tpm"), caDirectory: PLACES.ca });
  writeFileSync(at("cabinet.img"), new Uint8Array(BLOCK));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Where the hash tree begins: the first number of the measured `verity=` word, in blocks. */
function dataBytes(): number {
  return Number(/ verity=(\d+):/.exec(` ${image.manifest.commandLine}`)?.[1]) * BLOCK;
}

interface Outcome {
  /** Whether an agent answered: then everything that it is made of was read. */
  readonly answered: boolean;
  readonly console: string;
}

async function boot(root: string): Promise<Outcome> {
  const place = at(`b${boots++}`);
  mkdirSync(place);
  await using _tpm = await startSwtpm({ directory: at("tpm"), socket: join(place, "tpm.sock") });
  await using vm = await bootBareVm({
    ...{ kernel: at(".linux"), initrd: at(".initrd"), commandLine: image.manifest.commandLine, variant: "demo" },
    ...{ root, cabinet: at("cabinet.img"), tpmSocket: join(place, "tpm.sock"), directory: place },
  });
  const control = openControl({ control: await vm.port("ironclaw.control"), report: await vm.port("ironclaw.report") });
  const answers = async () => {
    for (;;) {
      const answer = await control.status(3_000).catch(() => null);
      if (answer !== null) return true;
      await delay(500);
    }
  };
  const answered = await Promise.race([answers(), vm.exited.then(() => false)]);
  control.close();
  return { answered, console: readFileSync(vm.consoleLog, "latin1") };
}

/** A copy of the root disk, changed by `change`. */
function altered(change: (path: string) => void): string {
  const path = at(`root-${boots}.img`);
  copyFileSync(image.root, path);
  change(path);
  return path;
}

function flip(path: string, offset: number): void {
  const bytes = readFileSync(path);
  bytes[offset] = (bytes[offset] ?? 0) ^ 1;
  writeFileSync(path, bytes);
}

describe("a root disk", () => {
  it("I1: as it was built leads to an agent that answers", async () => {
    expect(await boot(image.root)).toMatchObject({ answered: true });
  });

  it.each<[string, (path: string) => void]>([
    ["one bit changed in the file system's first block", (path) => flip(path, 1024 + 4)],
    ["one bit changed in the hash tree", (path) => flip(path, dataBytes())],
    ["its last block cut off", (path) => truncateSync(path, statSync(path).size - BLOCK)],
    ["nothing in it", (path) => truncateSync(path, 0)],
  ])("I1: with %s starts nothing: the machine ends before its agent", async (_, change) => {
    const { answered, console } = await boot(altered(change));
    expect(answered, console).toBe(false);
    expect(console).toMatch(/initrd: |verity|Kernel panic/);
  });

  it("I1: of another image, with a hash tree that fits it, starts nothing", async () => {
    const other = await buildImage({ variant: "dev", outDirectory: PLACES.image("dev"), cacheDirectory: PLACES.cache });
    const { answered, console } = await boot(other.root);
    expect(answered, console).toBe(false);
  });
});
