import { HANDLE_RANGE, type Session, type TpmObject, type Tpm as Tss } from "node-tpm2-tss";
import { type EndorsementKeyKind, type EndorsementKeyPublic, ekProfiles, ekTemplate } from "../attest/index.ts";
import { equalBytes, toHex } from "../policy/index.ts";
import { ekProfileOfName } from "./ek-public.ts";
import { SealError } from "./errors.ts";
import type { SealedPackage } from "./package.ts";

/** The EK kind of a sealed credential whose EK has a Name of this algorithm and size. @throws SealError ERR_SEAL_EK for neither */
export function ekKindOfName(ekName: Uint8Array): EndorsementKeyKind {
  const profile = ekProfileOfName(ekName);
  if (profile !== null) return profile.kind;
  throw new SealError("ERR_SEAL_EK", "EK name", { expected: "34 or 50 bytes", got: `${ekName.length}` });
}

/**
 * The EK at its persistent handle, else made from the template: the seed is the same, so the key is. Its Name is not checked.
 * @param wanted Name to look for: another key at the handle, where an owner may put one, is then passed over
 */
export async function openEndorsementKey(tss: Tss, kind: EndorsementKeyKind, wanted?: Uint8Array): Promise<TpmObject> {
  return (
    (await openPersistent(tss, kind, wanted)) ?? (await tss.createPrimary("endorsement", ekTemplate(ekProfiles[kind])))
  );
}

async function openPersistent(tss: Tss, kind: EndorsementKeyKind, wanted?: Uint8Array): Promise<TpmObject | null> {
  const { persistentHandle } = ekProfiles[kind];
  if (!(await tss.handles(HANDLE_RANGE.persistent)).includes(persistentHandle)) return null;
  const persistent = await tss.trFromTpmPublic(persistentHandle);
  if (wanted === undefined || equalBytes(persistent.name, wanted)) return persistent;
  await persistent[Symbol.asyncDispose]();
  return null;
}

/** The RSA keys that a connection has made. */
const madeKeys = new WeakMap<Tss, Map<EndorsementKeyKind, EndorsementKeyPublic>>();

/**
 * Public area and Name of the key that `openEndorsementKey` opens. Its owner may keep it at its persistent handle; where it is not there, an
 * RSA key is made once for a connection, because a TPM may search many seconds for its primes, while launches, reports and `doctor` wait, and
 * keeping it loaded would take one of three slots. What was made stays true: another seed (TPM2_ChangeEPS, which wants the platform's
 * authorisation) shows in the keys of other kinds, which are quickly made anew, and takes the connection's attestation key away.
 */
export async function endorsementKeyPublic(
  tss: Tss,
  kind: EndorsementKeyKind,
  wanted?: Uint8Array,
): Promise<EndorsementKeyPublic> {
  const persistent = await openPersistent(tss, kind, wanted);
  const known = persistent === null ? madeKeys.get(tss)?.get(kind) : undefined;
  if (known !== undefined) return known;
  await using ek = persistent ?? (await tss.createPrimary("endorsement", ekTemplate(ekProfiles[kind])));
  const { publicArea, name } = await tss.readPublic(ek);
  if (persistent === null && kind.startsWith("rsa")) {
    const made = madeKeys.get(tss) ?? new Map<EndorsementKeyKind, EndorsementKeyPublic>();
    madeKeys.set(tss, made.set(kind, { publicArea, name }));
  }
  return { publicArea, name };
}

/** The EK of this Name, whichever template it is of; null when this TPM has none. Dispose it. */
export async function findEndorsementKey(tss: Tss, name: Uint8Array): Promise<TpmObject | null> {
  for (const { kind, hashSize } of Object.values(ekProfiles)) {
    if (name.length !== 2 + hashSize) continue;
    const found = await openEndorsementKey(tss, kind, name);
    if (equalBytes(found.name, name)) return found;
    await found[Symbol.asyncDispose]();
  }
  return null;
}

/** A policy session good for one use of an EK: see decision 0005 for why not its empty password. Dispose it. */
export async function openEkPolicy(tss: Tss, kind: EndorsementKeyKind): Promise<Session> {
  const { hash, alternatives } = ekProfiles[kind];
  const session = await tss.startAuthSession({ kind: "policy", hash });
  try {
    await tss.policySecret("endorsement", session);
    if (alternatives.length > 0) await tss.policyOr(session, alternatives);
    return session;
  } catch (error) {
    await session[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Imports a package's blob under this TPM's EK, and returns the private area (content of a TPM2B_PRIVATE) that loads there until
 * TPM2_Clear. It is encrypted to the TPM: nothing in it is secret to whoever keeps it.
 *
 * @throws SealError ERR_SEAL_WRONG_PARENT when this TPM's EK has another Name; TpmError with the TPM's answer
 */
export async function importSealed(tss: Tss, sealed: SealedPackage): Promise<Uint8Array> {
  const kind = ekKindOfName(sealed.ekName);
  await using parent = await openParent(tss, sealed.ekName);
  await using use = await openEkPolicy(tss, kind);
  return await tss.import(parent, sealed.objectPublic, sealed.duplicate, sealed.encryptedSeed, { sessions: [use] });
}

/** What the unsealer takes (FORMATS.md, section 8); an EK of either kind makes far less. */
const MAX_PRIVATE_BYTES = 512;

/** A kept private area, or null when it cannot be one: the store it comes from could hold anything. */
export function loadableImport(imported: Uint8Array | null): Uint8Array | null {
  return imported !== null && imported.length > 0 && imported.length <= MAX_PRIVATE_BYTES ? imported : null;
}

/**
 * Loads what `importSealed` returned and compares the loaded object's Name with the package's public area: it is the object, and
 * this TPM can open it. Says nothing about whether its policy is met.
 *
 * @throws SealError ERR_SEAL_WRONG_PARENT; TpmError 0x1df when the private area is damaged or of before a TPM2_Clear
 */
export async function checkImported(tss: Tss, sealed: SealedPackage, imported: Uint8Array): Promise<void> {
  const kind = ekKindOfName(sealed.ekName);
  await using parent = await openParent(tss, sealed.ekName);
  await using use = await openEkPolicy(tss, kind);
  await using object = await tss.load(parent, imported, sealed.objectPublic, { sessions: [use] });
  const { publicArea } = await tss.readPublic(object);
  if (equalBytes(publicArea, sealed.objectPublic)) return;
  const fields = { expected: toHex(sealed.objectPublic), got: toHex(publicArea) };
  throw new SealError("ERR_SEALED_MALFORMED", "loaded object's public area", fields);
}

/** The EK that a package is sealed under, whatever is at its persistent handle. */
async function openParent(tss: Tss, ekName: Uint8Array): Promise<TpmObject> {
  const found = await openEndorsementKey(tss, ekKindOfName(ekName), ekName);
  if (equalBytes(found.name, ekName)) return found;
  await found[Symbol.asyncDispose]();
  throw new SealError("ERR_SEAL_WRONG_PARENT", "endorsement key", {
    expected: toHex(ekName),
    got: toHex(found.name),
    hint: "the package was sealed for another TPM: seal again with this one's EK certificate",
  });
}
