import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Image } from "../../vm-images/build.ts";
import { listFiles } from "../../vm-images/digest.ts";
import { encodeInitrd, kernelModules } from "../../vm-images/initrd.ts";
import { MACHINE_WORDS } from "../../vm-images/kernel-image.ts";
import { recipeLock } from "../../vm-images/lock.ts";
import { fetchPackages } from "../../vm-images/packages.ts";
import { bootBareVm, type Vm } from "../../vm-images/qemu.ts";
import { readRecipe } from "../../vm-images/recipes.ts";
import { startSwtpm } from "../../vm-images/swtpm.ts";
import { runTool } from "../../vm-images/tool.ts";
import { unpackPackages } from "../../vm-images/unpack.ts";
import { buildVerityRoot, verityArgument } from "../../vm-images/verity.ts";

// An image's root file system under any of the kernels, without the boot being measured: what the kernel and the spawner do is the same,
// and a boot takes a third of the time.

const CACHE = resolve(import.meta.dirname, "../../build/cache");

export interface BareRoot {
  readonly path: string;
  /** The word for the kernel's command line. */
  readonly verity: string;
  /** The initrd's program. */
  readonly init: Uint8Array;
}

/** A `dev` image's root with other files in the place of some of its own. */
export async function buildBareRoot(
  image: Image,
  files: Readonly<Record<string, Uint8Array>>,
  directory: string,
): Promise<BareRoot> {
  const tree = join(directory, "tree");
  await runTool("cp", ["-a", "--reflink=auto", `${image.tree}/.`, tree]);
  for (const [name, bytes] of Object.entries(files)) {
    const path = join(tree, name);
    await mkdir(dirname(path), { recursive: true });
    await rm(path, { force: true });
    await writeFile(path, bytes, { mode: 0o755 });
  }
  const path = join(directory, "root.img");
  const verity = verityArgument(await buildVerityRoot(tree, path));
  await rm(tree, { recursive: true });
  return { path, verity, init: await readFile(join(image.directory, "native/init")) };
}

export interface BareOrder {
  readonly root: BareRoot;
  readonly recipe: string;
  /** For sockets, logs and disks; made. */
  readonly directory: string;
  readonly cabinet?: Uint8Array;
  readonly extraDevices?: readonly string[];
}

/** As hard as a released image's, but for the shell that the variant has. With a TPM that nobody made keys for. */
export async function bootBare({ root, recipe, directory, cabinet, extraDevices }: BareOrder): Promise<Vm> {
  const tpm = { directory: join(directory, "tpm"), socket: join(directory, "tpm.sock") };
  await mkdir(tpm.directory, { recursive: true });
  const found = await readRecipe(recipe);
  const { modules, commandLine } = found;
  const tree = await unpackPackages(await fetchPackages(CACHE, await recipeLock(found)), ["kernel"], CACHE);
  const [file = ""] = await listFiles(join(tree, "boot"), (name) => name.startsWith("vmlinuz-"));
  const initrd = join(directory, "initrd");
  await writeFile(initrd, encodeInitrd(root.init, await kernelModules(tree, modules)));
  await writeFile(join(directory, "cabinet.img"), cabinet ?? new Uint8Array(4096));
  await startSwtpm(tpm); // ends with the machine
  return bootBareVm({
    ...{ kernel: join(tree, "boot", file), initrd, directory, root: root.path, variant: "dev" },
    commandLine: [
      ...[...MACHINE_WORDS, "lockdown=confidentiality", ...commandLine],
      ...["init_on_free=1", "ironclaw.variant=dev", root.verity],
    ].join(" "),
    cabinet: join(directory, "cabinet.img"),
    tpmSocket: tpm.socket,
    ...(extraDevices === undefined ? {} : { extraDevices }),
  });
}

/** Asks until the answer is as wanted: what a kernel does by itself takes the time that it takes. */
export async function eventually<T>(ask: () => Promise<T>, wanted: (answer: T) => boolean): Promise<T> {
  for (let tries = 0; ; tries++) {
    const answer = await ask();
    if (wanted(answer) || tries === 200) return answer;
    await sleep(100);
  }
}
