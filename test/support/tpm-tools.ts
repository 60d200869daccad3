import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { SoftwareTpm } from "./swtpm.ts";

const run = promisify(execFile);

/** One of tpm2-tools, as an independent peer. Gives its output, one character for each byte. */
export async function tpmTool(tpm: SoftwareTpm, tool: string, ...args: readonly string[]): Promise<string> {
  const { stdout } = await run(tool, [...args], {
    encoding: "latin1",
    env: { ...process.env, TPM2TOOLS_TCTI: tpm.tcti },
  });
  return stdout;
}

/** The EK certificate, DER, from the TPM's NV: 0x01c00002 RSA-2048, 0x01c00016 P-384. */
export async function readEkCertificate(tpm: SoftwareTpm, ek: "rsa" | "p384"): Promise<Uint8Array> {
  const text = await tpmTool(tpm, "tpm2_nvread", "-C", "o", ek === "rsa" ? "0x01c00002" : "0x01c00016");
  return Uint8Array.from(Buffer.from(text, "latin1"));
}

/** Files in a directory of their own, by name; for tools that take paths. */
export async function withFiles<T>(
  files: Readonly<Record<string, Uint8Array>>,
  use: (at: (name: string) => string) => Promise<T>,
): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-files-"));
  try {
    const at = (name: string) => join(directory, name);
    for (const [name, bytes] of Object.entries(files)) await writeFile(at(name), bytes);
    return await use(at);
  } finally {
    await rm(directory, { recursive: true });
  }
}

export async function readBytes(path: string): Promise<Uint8Array> {
  return Uint8Array.from(await readFile(path));
}
