import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { clearPeTimes, endOfSections, SECTION_ALIGNMENT } from "./pe.ts";
import { withScratch } from "./scratch.ts";
import { runTool } from "./tool.ts";

export interface UkiParts {
  /** systemd's EFI stub. */
  readonly stub: Uint8Array;
  /** os-release text. */
  readonly osRelease: string;
  /** The kernel command line, without a terminating NUL. Measured into PCR 9 and 11. */
  readonly commandLine: string;
  /** The kernel's release string; informational, the stub does not measure it. */
  readonly release: string;
  readonly kernel: Uint8Array;
  readonly initrd: Uint8Array;
}

/**
 * A unified kernel image: the stub with the sections .osrel .cmdline .uname .linux .initrd behind its own, in this
 * order. Equal parts give equal bytes. Not signed: the TPM, not Secure Boot, decides what may be unsealed. Its length is a multiple of eight, so
 * that a signature, which begins at one, changes nothing that is hashed.
 */
export async function buildUki(parts: UkiParts): Promise<Uint8Array> {
  return withScratch("ironclaw-uki-", async (directory) => {
    const sections: readonly (readonly [string, Uint8Array | string])[] = [
      [".osrel", parts.osRelease],
      [".cmdline", parts.commandLine],
      [".uname", parts.release],
      [".linux", parts.kernel],
      [".initrd", parts.initrd],
    ];
    const args: string[] = [];
    let address = endOfSections(parts.stub);
    for (const [name, content] of sections) {
      const path = join(directory, name.slice(1));
      await writeFile(path, content);
      args.push("--add-section", `${name}=${path}`, "--change-section-vma", `${name}=0x${address.toString(16)}`);
      address += Math.ceil(Buffer.byteLength(content) / SECTION_ALIGNMENT) * SECTION_ALIGNMENT;
    }
    const [stub, output] = [join(directory, "stub.efi"), join(directory, "uki.efi")];
    await writeFile(stub, parts.stub);
    await runTool("objcopy", [...args, stub, output]);
    return padded(clearPeTimes(await readFile(output)));
  });
}

function padded(bytes: Uint8Array): Uint8Array {
  const whole = new Uint8Array(Math.ceil(bytes.length / 8) * 8);
  whole.set(bytes);
  return whole;
}
