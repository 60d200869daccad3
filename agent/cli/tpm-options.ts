import { readFile, stat, writeFile } from "node:fs/promises";
import { TpmError } from "node-tpm2-tss";
import { fromHex, parseAnchors, type Release, verifyReleaseSignatures } from "../../policy/index.ts";
import {
  createOwnershipSecret,
  deriveOwnership,
  type Escrow,
  encodeEscrow,
  findEndorsementKey,
  type MachineTpm,
  memoryMedium,
  type Ownership,
  openStoreFile,
  openTpm,
  parseEscrow,
  SealError,
  Store,
} from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import { reasonOf } from "../system-reason.ts";
import type { CommandInput, CommandOption } from "./command.ts";
import { readInput } from "./files.ts";

export const TCTI_OPTION: CommandOption = {
  type: "string",
  value: "TCTI",
  help: "the TPM, e.g. device:/dev/tpmrm0 or swtpm:path=tpm.sock",
  required: true,
};
export const ANCHORS_OPTION: CommandOption = { type: "string", value: "FILE", help: "trust anchors", required: true };
export const STORE_OPTION: CommandOption = {
  type: "string",
  value: "FILE",
  help: "the machine's store (default: nothing is kept)",
};
export const RELEASE_OPTION: CommandOption = { type: "string", value: "FILE", help: "signed release", required: true };
export const RELEASES_OPTION: CommandOption = { ...RELEASE_OPTION, multiple: true };

/** Connects, runs, and disconnects. The TPM's refusal of a command is exit code 4. */
export async function withTpm<T>(input: CommandInput, use: (tpm: MachineTpm) => Promise<T>): Promise<T> {
  await using tpm = await openTpm({ tcti: input.text("tcti") });
  try {
    return await use(tpm);
  } catch (cause) {
    if (cause instanceof TpmError) throw new SealError("ERR_SEAL_TPM", cause.message, { cause });
    throw cause;
  }
}

export async function readAnchors(input: CommandInput) {
  return parseAnchors(await readInput(input.text("anchors"), "anchors"));
}

/** Releases whose signatures hold under the anchors; their dates are for the one who uses them. */
export async function readReleases(input: CommandInput, rootKeyPem: string): Promise<readonly Release[]> {
  return Promise.all(input.list("release").map((file) => readRelease(file, rootKeyPem)));
}

/** One release, as `readReleases` reads several. */
export async function readRelease(file: string, rootKeyPem: string): Promise<Release> {
  return verifyReleaseSignatures(await readInput(file, "release"), rootKeyPem);
}

/** The store of `--store`, or one that forgets. */
export async function withStore<T>(input: CommandInput, use: (store: Store) => Promise<T>): Promise<T> {
  const path = input.optional("store");
  if (path === undefined) return use(Store.open(memoryMedium()).store);
  const medium = openStoreFile(path);
  try {
    return await use(Store.open(medium).store);
  } finally {
    medium.close();
  }
}

/** An escrow file, which only its owner may read, and the authorisations that follow from it. */
export async function readEscrow(path: string): Promise<Escrow & Ownership> {
  const unusable = (got: string) =>
    new AgentError("ERR_ENVIRONMENT", `escrow ${path}`, { expected: "a file of mode 0600", got });
  const mode = await stat(path).catch((cause: unknown) => {
    throw unusable(reasonOf(cause));
  });
  if ((mode.mode & 0o077) !== 0) throw unusable(`mode 0${(mode.mode & 0o777).toString(8)}`);
  const escrow = parseEscrow(new Uint8Array(await readFile(path)));
  return { ...escrow, ...deriveOwnership(escrow.secret) };
}

/**
 * The escrow of a TPM that is about to get its owner: a new file, mode 0600, on the disk when this returns; or, after a take-over that
 * was cut off, the file of before. An owner that nobody knows could not be undone.
 *
 * @throws AgentError ERR_ENVIRONMENT when there is a file of another TPM, or none can be made
 */
export async function prepareEscrow(path: string, ekName: string): Promise<Escrow> {
  const escrow: Escrow = { ekName, secret: createOwnershipSecret() };
  try {
    await writeFile(path, encodeEscrow(escrow), { flag: "wx", mode: 0o600, flush: true });
    return escrow;
  } catch (cause) {
    if (reasonOf(cause) !== "EEXIST")
      throw new AgentError("ERR_ENVIRONMENT", `escrow ${path}`, {
        expected: "a new file",
        got: reasonOf(cause),
        cause,
      });
  }
  const known = await readEscrow(path);
  if (known.ekName === ekName) return known;
  throw new AgentError("ERR_ENVIRONMENT", `escrow ${path}`, {
    expected: `a new file, or that of ${ekName}`,
    got: known.ekName,
  });
}

/** @throws AgentError ERR_ENVIRONMENT when the escrow file is of another TPM */
export async function requireEscrowOf(tss: MachineTpm["tss"], ekName: string): Promise<void> {
  await using ek = await findEndorsementKey(tss, fromHex(ekName));
  if (ek !== null) return;
  throw new AgentError("ERR_ENVIRONMENT", "escrow", { expected: "the file of this TPM", got: `that of ${ekName}` });
}
