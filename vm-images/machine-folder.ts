import { existsSync } from "node:fs";
import { copyFile, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { ImageError } from "./errors.ts";
import { makeDirectory } from "./make-directory.ts";
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

/**
 * Finds a machine's folder, or makes it (mode 0700). A TPM that is there stays as it is; the disks are made by the boot.
 * @throws ImageError ERR_VM_START for a folder that is somebody else's, or no machine's: nothing is written into it
 */
export async function openMachineFolder(path: string): Promise<MachineFolder> {
  const directory = resolve(path);
  const tpmDirectory = join(directory, "tpm");
  if (!(await makeDirectory(directory, 0o700))) await requireMachineFolder(directory);
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

const OTHERS_WRITE = 0o022;

/** Who else may write there has its TPM and its disks; and a folder of documents is not one to fill with sockets and disks. */
async function requireMachineFolder(directory: string): Promise<void> {
  const { uid, mode } = await stat(directory);
  const refused = (expected: string, got: string): ImageError =>
    new ImageError("ERR_VM_START", `machine folder ${directory}`, {
      ...{ expected, got },
      hint: "name one that is not there yet: it is made, for this user alone",
    });
  if (uid !== process.geteuid?.()) throw refused("one of this user's", `one of uid ${uid}`);
  if ((mode & OTHERS_WRITE) !== 0)
    throw refused("one that nobody else may write to", `mode 0${(mode & 0o777).toString(8)}`);
  if (existsSync(join(directory, "tpm", TPM_STATE))) return;
  // A TPM that was not finished leaves a machine's folder without one.
  const other = (await readdir(directory)).toSorted().find((name) => !isMachines(directory, name));
  if (other !== undefined) throw refused("a machine's, or an empty one", `one with ${other} in it and no TPM`);
}

function isMachines(directory: string, name: string): boolean {
  const { vars, state, store, console } = vmPaths(directory);
  const own = [vars, state, store, console].map((path) => basename(path));
  return name === "tpm" || name === "acceleration.json" || name.endsWith(".sock") || own.includes(name);
}
