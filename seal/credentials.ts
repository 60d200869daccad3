import { reason } from "../attest/index.ts";
import { type Anchors, IronclawError } from "../policy/index.ts";
import type { UnsealFinding } from "./diagnosis.ts";
import { loadableImport } from "./endorsement.ts";
import { packageDigest, peekSealedPackage, type SealedPackage, verifySealedPackage } from "./package.ts";
import type { StoreContent, StoreEntry } from "./store.ts";

/** One credential of a machine, and which of its packages a launch uses. */
export interface Credential {
  readonly sealed: SealedPackage;
  /** The signed package as it was handed in. */
  readonly envelope: Uint8Array;
  /** Its private area on this TPM, from the store; null when it was never imported here. */
  readonly imported: Uint8Array | null;
}

export interface ChosenCredentials {
  readonly byName: ReadonlyMap<string, Credential>;
  /** What is wrong with packages of the cabinet; a package that cannot be read blocks, because it may be the newest. */
  readonly findings: readonly UnsealFinding[];
}

/** A file of the cabinet's slot `sealed`. */
export interface PackageFile {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/**
 * The newest generation of each credential, from what the operator put into the cabinet and what the machine has kept. A damaged
 * package is replaced by a kept one of the same generation or a later one only: an older one may hold a PIN that was changed since.
 *
 * @param anchors the operator's key verifies every package again, also those of the store: nothing is believed because it is there
 */
export async function chooseCredentials(
  anchors: Anchors,
  files: readonly PackageFile[],
  store: StoreContent,
): Promise<ChosenCredentials> {
  const kept = await readKept(anchors, store.entries);
  const findings: UnsealFinding[] = [];
  const candidates: Credential[] = [...kept];
  for (const { path, bytes } of files) {
    try {
      const sealed = await verifySealedPackage(bytes, anchors);
      candidates.push({ sealed, envelope: bytes, imported: importedOf(kept, sealed) });
    } catch (error) {
      if (!isKeptGeneration(bytes, kept)) findings.push(damaged(path, error));
    }
  }
  const byName = new Map<string, Credential>();
  for (const candidate of candidates) {
    const best = byName.get(candidate.sealed.name);
    if (best === undefined || candidate.sealed.generation > best.sealed.generation) {
      byName.set(candidate.sealed.name, candidate);
    } else if (isAnother(candidate.sealed, best.sealed)) findings.push(ambiguous(candidate.sealed, best.sealed));
  }
  return { byName, findings };
}

/** Entries under another operator's key than the anchors' are left out: that operator was replaced. */
async function readKept(anchors: Anchors, entries: readonly StoreEntry[]): Promise<readonly Credential[]> {
  const read = entries.map(async (entry): Promise<Credential | null> => {
    try {
      const sealed = await verifySealedPackage(entry.package, anchors);
      return { sealed, envelope: entry.package, imported: loadableImport(entry.imported) };
    } catch {
      return null;
    }
  });
  return (await Promise.all(read)).filter((credential) => credential !== null);
}

function importedOf(kept: readonly Credential[], sealed: SealedPackage): Uint8Array | null {
  const digest = packageDigest(sealed);
  return kept.find((entry) => packageDigest(entry.sealed) === digest)?.imported ?? null;
}

/** What a damaged package claims to be is good enough for using a kept one of that generation or a later one, which was verified. */
function isKeptGeneration(bytes: Uint8Array, kept: readonly Credential[]): boolean {
  const claimed = peekSealedPackage(bytes);
  if (claimed === null) return false;
  const newest = kept.filter(({ sealed }) => sealed.name === claimed.name).map(({ sealed }) => sealed.generation);
  return newest.length > 0 && Math.max(...newest) >= claimed.generation;
}

function isAnother(a: SealedPackage, b: SealedPackage): boolean {
  return a.generation === b.generation && packageDigest(a) !== packageDigest(b);
}

function damaged(path: string, error: unknown): UnsealFinding {
  const got = error instanceof IronclawError ? error.message : "something else";
  return { ...reason("blob-damaged", path, "a sealed package of this operator and root", got), code: "blob-damaged" };
}

function ambiguous(a: SealedPackage, b: SealedPackage): UnsealFinding {
  const fields = reason("credential-ambiguous", a.name, `one package of generation ${a.generation}`, "two");
  return { ...fields, code: "credential-ambiguous", got: `${packageDigest(a)} and ${packageDigest(b)}` };
}
