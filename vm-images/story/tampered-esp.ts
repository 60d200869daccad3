import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parsePe, readPeSection } from "../../attest/index.ts";
import { concatBytes, utf8 } from "../../policy/index.ts";
import type { Image } from "../build.ts";
import { encodeCpio } from "../cpio.ts";
import { ImageError } from "../errors.ts";
import { buildEsp } from "../esp.ts";
import { fetchPackages, readLock } from "../packages.ts";
import { buildUki } from "../uki.ts";
import { unpackPackages } from "../unpack.ts";

/**
 * The image's boot disk with one file added to the initrd, built from the same stub, kernel and command line. The kernel
 * unpacks archives one after the other, so the addition is a second archive behind the first.
 */
export async function buildTamperedEsp(image: Image, cacheDirectory: string, output: string): Promise<void> {
  const uki = parsePe(new Uint8Array(await readFile(image.uki)));
  const section = (name: string): Uint8Array => {
    const content = readPeSection(uki, name);
    if (content === null)
      throw new ImageError("ERR_IMAGE_MALFORMED", `uki section ${name}`, { expected: "a section", got: "none" });
    return content;
  };
  const text = (name: string) => new TextDecoder().decode(section(name));
  const stubTree = await unpackPackages(
    await fetchPackages(cacheDirectory, await readLock()),
    ["stub"],
    cacheDirectory,
  );
  const added = encodeCpio([{ path: "added-by-an-attacker", mode: 0o644, bytes: utf8("one file more\n") }]);
  const tampered = await buildUki({
    stub: await readFile(join(stubTree, "usr/lib/systemd/boot/efi/linuxx64.efi.stub")),
    osRelease: text(".osrel"),
    commandLine: text(".cmdline"),
    release: text(".uname"),
    kernel: section(".linux"),
    initrd: concatBytes(section(".initrd"), added),
  });
  await buildEsp(tampered, output);
}
