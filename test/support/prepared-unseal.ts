import { type Session, TpmObject, type Tpm as Tss } from "node-tpm2-tss";
import {
  credentialRef,
  delegationSteps,
  EPOCH_INDEX,
  fromBase64,
  measureKeyName,
  RELEASE_REF,
  releaseSteps,
  sealPcrValues,
} from "../../policy/index.ts";
import {
  delegatedSignature,
  ekKindOfName,
  executePolicy,
  importSealed,
  openEkPolicy,
  openEndorsementKey,
  verifyApprovalTicket,
  verifySealedPackage,
} from "../../seal/index.ts";
import type { Provisioned } from "./launch-documents.ts";
import type { SealKeys } from "./seal-fixture.ts";

/** An object and a session whose policy was met while the measured values were right, both held by root itself. */
export interface PreparedUnseal {
  readonly object: TpmObject;
  readonly session: Session;
  /** The one command that was left to give. Rejects with the TPM's answer. */
  unseal(): Promise<Uint8Array>;
}

/**
 * Everything but TPM2_Unseal itself, with commands of root's own: no salt and no encryption, so that root has all that a later use of
 * the session needs.
 */
export async function prepareUnseal(tss: Tss, keys: SealKeys, machine: Provisioned): Promise<PreparedUnseal> {
  const { releaseRoot } = keys.anchors;
  const { release, packages } = machine;
  const sealed = await verifySealedPackage(packages.get("hsm-pin") ?? new Uint8Array(), keys.anchors);
  const imported = await importSealed(tss, sealed);
  const object = await loadSealed(tss, sealed, imported);
  const own = releaseSteps(releaseRoot, sealPcrValues(release), release.epoch);
  const delegated = delegationSteps(releaseRoot, release.releaseKey, release.delegation.lastEpoch);
  const policyRef = credentialRef(sealed.name);
  const tickets = [
    await verifyApprovalTicket(tss, release.releaseKey, own, RELEASE_REF, fromBase64(release.unseal)),
    await verifyApprovalTicket(
      tss,
      releaseRoot,
      delegated,
      policyRef,
      fromBase64(delegatedSignature(release, sealed.name)),
    ),
  ];
  await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
  const session = await tss.startAuthSession({ kind: "policy" });
  const root = { kind: "authorize", keyName: measureKeyName(releaseRoot), policyRef } as const;
  await executePolicy(tss, session, [...own, ...delegated, root], { index, tickets });
  return { object, session, unseal: () => tss.unseal(object, { sessions: [session] }) };
}

type Sealed = Awaited<ReturnType<typeof verifySealedPackage>>;

async function loadSealed(tss: Tss, sealed: Sealed, imported: Uint8Array): Promise<TpmObject> {
  const kind = ekKindOfName(sealed.ekName);
  await using parent = await openEndorsementKey(tss, kind);
  await using use = await openEkPolicy(tss, kind);
  return await tss.load(parent, imported, sealed.objectPublic, { sessions: [use] });
}

/** The same, put away as saved contexts: the TPM need not hold anything meanwhile. */
export async function saveContexts(tss: Tss, { object, session }: PreparedUnseal): Promise<readonly Uint8Array[]> {
  const saved = [await tss.contextSave(object), await tss.contextSave(session)];
  await tss.flushContext(object);
  return saved;
}

export async function unsealFromContexts(tss: Tss, [object, session]: readonly Uint8Array[]): Promise<Uint8Array> {
  const loaded = await tss.contextLoad(object ?? new Uint8Array());
  const policy = await tss.contextLoad(session ?? new Uint8Array());
  if (!(loaded instanceof TpmObject) || policy instanceof TpmObject) throw new Error("an object, then a session");
  return tss.unseal(loaded, { sessions: [policy] });
}
