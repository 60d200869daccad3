import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parsePe, readPeSection } from "../../attest/index.ts";
import { concatBytes, utf8 } from "../../policy/index.ts";
import { compileProfile } from "../../policy/runtime/compile.ts";
import { parseProfile } from "../../policy/runtime/parse.ts";
import type { Image } from "../build.ts";
import { encodeCpio } from "../cpio.ts";
import { ImageError } from "../errors.ts";
import { buildEsp } from "../esp.ts";
import { readLock } from "../lock.ts";
import { makeDirectory } from "../make-directory.ts";
import { fetchPackages } from "../packages.ts";
import { buildUki } from "../uki.ts";
import { unpackPackages } from "../unpack.ts";
import { buildVerityRoot, verityArgument } from "../verity.ts";

// Images of an attacker who can write the boot and root disks and makes every checksum good again: only measurement notices.

/** The image's boot disk with one file added to the initrd. The kernel unpacks archives one after the other. */
export function addInitrdFile(image: Image, cacheDirectory: string, output: string): Promise<void> {
  const added = encodeCpio([{ path: "added-by-an-attacker", mode: 0o644, bytes: utf8("one file more\n") }]);
  return rebuildEsp(image, cacheDirectory, output, { initrd: (initrd) => concatBytes(initrd, added) });
}

export interface TamperedDisks {
  readonly esp: string;
  readonly root: string;
}

/** Both disks with a sandbox profile of a wider limit; the new root hash is on the command line, so the guest boots. */
export async function widenProfile(image: Image, cacheDirectory: string, directory: string): Promise<TamperedDisks> {
  const tree = join(directory, "tree");
  await makeDirectory(directory);
  await cp(image.tree, tree, { recursive: true, verbatimSymlinks: true });
  await writeFile(join(tree, "usr/lib/ironclaw/local.profile"), await widerProfile());
  const root = join(directory, "root.img");
  const verity = verityArgument(await buildVerityRoot(tree, root));
  const esp = join(directory, "esp.img");
  await rebuildEsp(image, cacheDirectory, esp, { commandLine: (line) => line.replace(/verity=\S+/, verity) });
  return { esp, root };
}

/** Sixteen times the open files. What matters more, such as a socket, our own compiler would refuse to write. */
async function widerProfile(): Promise<Uint8Array> {
  const text = await readFile(join(import.meta.dirname, "../../policy/runtime/local.profile"), "utf8");
  return compileProfile(parseProfile(text.replace("limit nofile 64", "limit nofile 1024")));
}

interface Changes {
  readonly initrd?: (initrd: Uint8Array) => Uint8Array;
  readonly commandLine?: (line: string) => string;
}

/** A boot disk from the image's own stub and kernel. */
async function rebuildEsp(image: Image, cacheDirectory: string, output: string, changes: Changes): Promise<void> {
  const { initrd = (same) => same, commandLine = (same) => same } = changes;
  const uki = parsePe(new Uint8Array(await readFile(image.uki)));
  const section = (name: string): Uint8Array => {
    const content = readPeSection(uki, name);
    if (content === null)
      throw new ImageError("ERR_IMAGE_MALFORMED", `uki section ${name}`, { expected: "a section", got: "none" });
    return content;
  };
  const text = (name: string) => new TextDecoder().decode(section(name));
  const set = await fetchPackages(cacheDirectory, await readLock(["stub"]));
  const stubTree = await unpackPackages(set, ["stub"], cacheDirectory);
  const tampered = await buildUki({
    stub: await readFile(join(stubTree, "usr/lib/systemd/boot/efi/linuxx64.efi.stub")),
    osRelease: text(".osrel"),
    commandLine: commandLine(text(".cmdline")),
    release: text(".uname"),
    kernel: section(".linux"),
    initrd: initrd(section(".initrd")),
  });
  await buildEsp(tampered, output);
}
