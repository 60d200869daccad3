import {
  type Anchors,
  type BundleEntry,
  encodeBundle,
  IronclawError,
  parseBundle,
  parsePolicy,
  type Release,
  type SlotName,
  sha256Hex,
  verifyReleaseSignatures,
} from "../../policy/index.ts";
import { explainRelease, type SealedPackage, verifySealedPackage } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";

/** The slots that hold a bundle with one file for each signed document. */
export const DOCUMENT_SLOTS = ["release", "sealed"] as const satisfies readonly SlotName[];
export type DocumentSlot = (typeof DOCUMENT_SLOTS)[number];

export function isDocumentSlot(slot: SlotName): slot is DocumentSlot {
  return (DOCUMENT_SLOTS as readonly SlotName[]).includes(slot);
}

/** A document as it was handed in. */
export type GivenDocument = Pick<BundleEntry, "path" | "bytes">;

export interface ReleaseFacts {
  readonly file: string;
  readonly name: string;
  readonly epoch: number;
  readonly raise: boolean;
  readonly notBefore: string;
  readonly notAfter: string;
  readonly now: "valid" | "not-yet-valid" | "expired";
  readonly credentials: readonly string[];
}

export interface SealedFacts extends Pick<SealedPackage, "name" | "kind" | "generation" | "notAfter" | "tokenSerial"> {
  readonly file: string;
}

export interface CheckedDocuments {
  readonly release: readonly ReleaseFacts[];
  readonly sealed: readonly SealedFacts[];
  /** What an operator should know and what breaks no rule. */
  readonly warnings: readonly string[];
}

/**
 * The bundle of some signed documents, each under its own file name: `/NAME.json` for a credential, `/HASH.json` for a release.
 * @throws AgentError ERR_CONFIG_INVALID for a document that does not verify, or two of one file name
 */
export async function bundleDocuments(
  slot: DocumentSlot,
  documents: readonly GivenDocument[],
  anchors: Anchors,
): Promise<Uint8Array> {
  const files = new Map<string, Uint8Array>();
  for (const document of documents) {
    const { bytes } = document;
    const file = await fileNameOf(slot, document, anchors);
    const twice = slot === "release" ? "one release given twice" : "two of one credential's name";
    if (files.has(file))
      throw new AgentError("ERR_CONFIG_INVALID", `${slot} ${file}`, { expected: "one document", got: twice });
    files.set(file, bytes);
  }
  return encodeBundle(files);
}

/** The bundle with this document in it, in the place of the one with its file name. */
export async function addDocument(
  slot: DocumentSlot,
  bundle: Uint8Array | undefined,
  document: GivenDocument,
  anchors: Anchors,
): Promise<Uint8Array> {
  const files = new Map(bundle === undefined ? [] : parseBundle(bundle).map(({ path, bytes }) => [path, bytes]));
  return encodeBundle(files.set(await fileNameOf(slot, document, anchors), document.bytes));
}

async function fileNameOf(slot: DocumentSlot, document: GivenDocument, anchors: Anchors): Promise<string> {
  if (slot === "sealed") return sealedFileName(await openSealed(document, anchors));
  await openRelease(document, anchors);
  return releaseFileName(document.bytes);
}

function openSealed({ path, bytes }: GivenDocument, anchors: Anchors): Promise<SealedPackage> {
  return named(`sealed ${path}`, () => verifySealedPackage(bytes, anchors));
}

function openRelease({ path, bytes }: GivenDocument, anchors: Anchors): Promise<Release> {
  return named(`release ${path}`, () => verifyReleaseSignatures(bytes, anchors.releaseRoot));
}

/** Of several documents the message says which. */
async function named<T>(document: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    const fields = { cause, ...(cause.hint === undefined ? {} : { hint: cause.hint }) };
    throw new AgentError("ERR_CONFIG_INVALID", `${document}: ${cause.message}`, fields);
  }
}

/** By its content: several releases of one name are no mistake, and a new signature is another document. */
export function releaseFileName(bytes: Uint8Array): string {
  return `/${sha256Hex(bytes).slice(0, 16)}.json`;
}

export function sealedFileName({ name }: Pick<SealedPackage, "name">): string {
  return `/${name}.json`;
}

/**
 * Verifies every document of both slots as the launch will, and says what is in them.
 * @param policyBytes the cabinet's policy, if it has one: a release for another policy unseals nothing beside it
 * @throws AgentError ERR_CONFIG_INVALID for a document that does not verify, or a file of another name; PolicyError for a damaged bundle
 */
export async function checkDocuments(
  slots: Partial<Record<DocumentSlot, Uint8Array>>,
  anchors: Anchors,
  policyBytes: Uint8Array | undefined,
  now: Date,
): Promise<CheckedDocuments> {
  const releases: { readonly entry: BundleEntry; readonly release: Release }[] = [];
  for (const entry of slots.release === undefined ? [] : parseBundle(slots.release)) {
    const release = await openRelease(entry, anchors);
    requireFileName(entry, releaseFileName(entry.bytes));
    releases.push({ entry, release });
  }
  const sealed: SealedFacts[] = [];
  for (const entry of slots.sealed === undefined ? [] : parseBundle(slots.sealed)) {
    const { name, kind, generation, notAfter, tokenSerial } = await openSealed(entry, anchors);
    requireFileName(entry, sealedFileName({ name })); // so that no two have one name
    sealed.push({ file: entry.path, name, kind, generation, notAfter, tokenSerial });
  }
  const facts = releases.map(({ entry, release }) => releaseFacts(entry.path, release, now));
  const warnings = [
    ...facts.flatMap(warnAboutDates),
    ...sealed.flatMap((each) => warnAboutEnd(each, now)),
    ...(facts.length === 0 ? [] : sealed.flatMap((each) => warnAboutDelegation(each, facts))),
    ...warnAboutPolicy(releases, policyBytes),
  ];
  return { release: facts, sealed, warnings };
}

function requireFileName({ path }: BundleEntry, expected: string): void {
  if (path === expected) return;
  throw new AgentError("ERR_CONFIG_INVALID", "cabinet document", { expected: `the file name ${expected}`, got: path });
}

function releaseFacts(file: string, release: Release, now: Date): ReleaseFacts {
  const { name, epoch, validity, credentials } = explainRelease(release, now);
  const raise = release.raise !== null;
  return { file, name, epoch: epoch.number, raise, ...validity, credentials };
}

function warnAboutDates({ name, now, notBefore, notAfter }: ReleaseFacts): string[] {
  if (now === "valid") return [];
  return [now === "expired" ? `release ${name} has ended: ${notAfter}` : `release ${name} begins later: ${notBefore}`];
}

function warnAboutEnd({ name, notAfter }: SealedFacts, now: Date): string[] {
  return notAfter === null || now.getTime() <= Date.parse(notAfter)
    ? []
    : [`credential ${name} has ended: ${notAfter}`];
}

function warnAboutDelegation({ name }: SealedFacts, releases: readonly ReleaseFacts[]): string[] {
  if (releases.some(({ credentials }) => credentials.includes(name))) return [];
  return [`credential ${name} stays sealed: no release here is of a key that the root approved for it`];
}

function warnAboutPolicy(
  releases: readonly { readonly release: Release }[],
  policyBytes: Uint8Array | undefined,
): string[] {
  if (policyBytes === undefined || releases.length === 0) return [];
  const digest = sha256Hex(policyBytes);
  const named = releases.some(({ release }) =>
    release.events.some(({ kind, sha256 }) => kind === "policy" && sha256 === digest),
  );
  if (named) return [];
  const { serial } = parsePolicy(policyBytes);
  return [`no release here is for this policy (serial ${serial}, ${digest}): everything stays sealed`];
}
