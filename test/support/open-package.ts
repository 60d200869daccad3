import { createDecipheriv } from "node:crypto";
import type { Session, TpmObject, Tpm as Tss } from "node-tpm2-tss";
import {
  type Anchors,
  credentialRef,
  delegationSteps,
  EPOCH_INDEX,
  fromBase64,
  measureKeyName,
  measurePolicy,
  type PolicyStep,
  RELEASE_REF,
  type Release,
  releaseSteps,
  sealPcrValues,
} from "../../policy/index.ts";
import { ekKindOfName, importSealed, openEkPolicy, openEndorsementKey } from "../../seal/endorsement.ts";
import { encodeCredentialLabel, type SealedPackage } from "../../seal/package.ts";
import { TAG_BYTES } from "../../seal/padding.ts";
import { executePolicy, verifyApprovalTicket } from "../../seal/policy-session.ts";
import { delegatedSignature } from "../../seal/unseal.ts";

// What the unsealer does in C, step by step, for tests that stop between the steps. The secret is a JavaScript value here: tests only.

export interface SealedCredential {
  readonly sealed: SealedPackage;
  readonly release: Release;
  readonly anchors: Anchors;
  /** What TPM2_Import made of the package; imported anew when it is not given. */
  readonly imported?: Uint8Array;
}

/** The whole policy that leads to TPM2_Unseal: what the release key approves, what the root approves, and the root itself. */
export function unsealSteps({ sealed, release, anchors }: SealedCredential): readonly PolicyStep[] {
  const { releaseRoot } = anchors;
  return [
    ...releaseSteps(releaseRoot, sealPcrValues(release), release.epoch),
    ...delegationSteps(releaseRoot, release.releaseKey, release.delegation.lastEpoch),
    { kind: "authorize", keyName: measureKeyName(releaseRoot), policyRef: credentialRef(sealed.name) },
  ];
}

/** The TPM's tickets for both approvals. */
export async function unsealTickets(tss: Tss, { sealed, release, anchors }: SealedCredential): Promise<Uint8Array[]> {
  const { releaseRoot } = anchors;
  const { releaseKey, delegation, epoch } = release;
  const own = releaseSteps(releaseRoot, sealPcrValues(release), epoch);
  const delegated = delegationSteps(releaseRoot, releaseKey, delegation.lastEpoch);
  const ownSignature = fromBase64(release.unseal);
  const rootSignature = fromBase64(delegatedSignature(release, sealed.name));
  return [
    await verifyApprovalTicket(tss, releaseKey, own, RELEASE_REF, ownSignature),
    await verifyApprovalTicket(tss, releaseRoot, delegated, credentialRef(sealed.name), rootSignature),
  ];
}

/** The object that holds the credential's key, loaded under the EK. Dispose it. */
export async function loadSealed(tss: Tss, { sealed, imported }: SealedCredential): Promise<TpmObject> {
  const kind = ekKindOfName(sealed.ekName);
  const privateArea = imported ?? (await importSealed(tss, sealed));
  await using parent = await openEndorsementKey(tss, kind, sealed.ekName);
  await using use = await openEkPolicy(tss, kind);
  return await tss.load(parent, privateArea, sealed.objectPublic, { sessions: [use] });
}

/** Runs the whole unsealing policy in a session. @throws TpmError of the step that the TPM refuses */
export async function satisfy(
  tss: Tss,
  session: Session,
  credential: SealedCredential,
  tickets: readonly Uint8Array[],
): Promise<void> {
  await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
  await executePolicy(tss, session, unsealSteps(credential), { index, tickets });
}

/** The same in a session in which PolicyPCR was done before: everything behind it. */
export async function satisfyAfterPcr(
  tss: Tss,
  session: Session,
  credential: SealedCredential,
  tickets: readonly Uint8Array[],
): Promise<void> {
  const steps = unsealSteps(credential);
  const left = [...tickets];
  await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
  for (const [position, step] of steps.entries()) {
    const ticket = step.kind === "authorize" ? left.shift() : undefined;
    if (step.kind === "authorize" && ticket !== undefined)
      await tss.policyAuthorize(session, measurePolicy(steps.slice(0, position)), step.policyRef, step.keyName, ticket);
    else if (step.kind !== "pcr") await executePolicy(tss, session, [step], { index });
  }
}

/** Unseals and decrypts. @throws TpmError with the TPM's answer */
export async function openPackage(tss: Tss, credential: SealedCredential): Promise<Uint8Array> {
  const tickets = await unsealTickets(tss, credential);
  await using object = await loadSealed(tss, credential);
  const kind = ekKindOfName(credential.sealed.ekName);
  await using session = await startSalted(tss, kind, credential.sealed.ekName);
  await satisfy(tss, session, credential, tickets);
  return decrypt(credential.sealed, await tss.unseal(object, { sessions: [session] }));
}

/** As the unsealer's: salted to the EK, the response encrypted. */
export async function startSalted(
  tss: Tss,
  kind: ReturnType<typeof ekKindOfName>,
  ekName?: Uint8Array,
): Promise<Session> {
  await using saltKey = await openEndorsementKey(tss, kind, ekName);
  return await tss.startAuthSession({ kind: "policy", saltKey, encrypt: true });
}

function decrypt(sealed: SealedPackage, key: Uint8Array): Uint8Array {
  const { nonce, ciphertext } = sealed;
  const body = ciphertext.subarray(0, -TAG_BYTES);
  const decipher = createDecipheriv("aes-256-gcm", key, nonce);
  decipher.setAAD(encodeCredentialLabel(sealed));
  decipher.setAuthTag(ciphertext.subarray(-TAG_BYTES));
  const padded = Buffer.concat([decipher.update(body), decipher.final()]);
  return Uint8Array.from(padded.subarray(2, 2 + padded.readUInt16BE(0)));
}
