import { existsSync } from "node:fs";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { vmPaths } from "./qemu-args.ts";
import { makeTpmState } from "./swtpm.ts";

/** The software TPM's file; swtpm_setup makes it last. */
const TPM_STATE = "tpm2-00.permall";

export interface SoftwareTpmFiles {
  readonly directory: string;
  /** DER, of the P-384 endorsement key. */
  readonly ekCertificate: string;
}

/** A software TPM with a CA of its own, and beside it what `ironclaw seal` and `ironclaw enrol` ask for: ek.der, ek-issuer.pem, ek-ca.pem. */
export async function makeSoftwareTpm(path: string): Promise<SoftwareTpmFiles> {
  const directory = resolve(path);
  const tpm = await makeTpmState({ directory, caDirectory: join(directory, "ca") });
  const ekCertificate = join(directory, "ek.der");
  await copyFile(tpm.caIssuer, join(directory, "ek-issuer.pem"));
  await copyFile(tpm.caRoot, join(directory, "ek-ca.pem"));
  await writeFile(ekCertificate, tpm.ekCertificates.p384);
  return { directory, ekCertificate };
}

/** What one machine has on its host: TPM, disks that it writes, sockets, console. */
export interface MachineFolder {
  readonly directory: string;
  readonly tpmDirectory: string;
  /** The certificate that was made with the TPM; null for a TPM that came from elsewhere. */
  readonly ekCertificate: Uint8Array | null;
  /** Of what was not there yet. */
  readonly made: readonly ("tpm" | "state" | "store")[];
}

/** Finds a machine's folder, or makes it (mode 0700). A TPM that is there stays as it is; the disks are made by the boot. */
export async function openMachineFolder(path: string): Promise<MachineFolder> {
  const directory = resolve(path);
  const tpmDirectory = join(directory, "tpm");
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const { state, store } = vmPaths(directory);
  const missing = { tpm: join(tpmDirectory, TPM_STATE), state, store };
  const made = (["tpm", "state", "store"] as const).filter((part) => !existsSync(missing[part]));
  if (made.includes("tpm")) await makeSoftwareTpm(tpmDirectory);
  const ekCertificate = await readFile(join(tpmDirectory, "ek.der")).catch(() => null);
  return {
    directory,
    tpmDirectory,
    made,
    ekCertificate: ekCertificate === null ? null : new Uint8Array(ekCertificate),
  };
}
