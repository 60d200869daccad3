import * as z from "zod";
import { fromBase64 } from "./bytes.ts";
import { encodeCanonicalJson, parseCanonicalJson } from "./canonical-json.ts";
import { EPOCH_ROOT_REF, MAX_EPOCH } from "./epoch.ts";
import { PolicyError } from "./errors.ts";
import { importVerificationKey, parseVerificationKey } from "./keys.ts";
import {
  CREDENTIAL_NAME,
  credentialRef,
  delegationSteps,
  firstIncrementSteps,
  raiseDelegationSteps,
} from "./sealing-policy.ts";
import { encodePolicyApproval, measurePolicy, type PolicyStep } from "./tpm-policy.ts";
import type { ImportedKey } from "./verify-signature.ts";

const signature = z.string().max(512);

export const delegationSchema = z
  .strictObject({
    lastEpoch: z.int().min(0).max(MAX_EPOCH),
    credentials: z
      .array(z.strictObject({ name: z.string().regex(CREDENTIAL_NAME), signature }).readonly())
      .min(1)
      .max(32)
      .readonly(),
    first: signature,
    raise: signature,
  })
  .refine(
    ({ credentials }) =>
      credentials.every(({ name }, index) => index === 0 || (credentials[index - 1]?.name ?? "") < name),
    { path: ["credentials"], message: "expected ascending names, each once" },
  )
  .readonly();

const documentSchema = z
  .strictObject({ version: z.literal(2), releaseKey: z.string().max(4096), delegation: delegationSchema })
  .readonly();

/**
 * The release root's approval of one release key: for which credentials, and up to which epoch. Signatures in base64; what each
 * of them is over follows from the key, the epoch and the name, so it is not repeated. Made once per release key, with the
 * root key, which stays offline afterwards.
 */
export type Delegation = z.infer<typeof delegationSchema>;

/** A delegation as a file of its own, with the key it is for. It needs no envelope: all of it is signatures of the root. */
export type DelegationDocument = z.infer<typeof documentSchema>;

/** Reads a delegation file. Verifies nothing: see `verifyDelegation`. @throws PolicyError ERR_RELEASE_MALFORMED */
export function parseDelegation(bytes: Uint8Array): DelegationDocument {
  return parseCanonicalJson(bytes, documentSchema, "ERR_RELEASE_MALFORMED", "delegation");
}

/** @throws PolicyError ERR_RELEASE_MALFORMED for a document that `parseDelegation` would not take */
export function encodeDelegation(document: DelegationDocument): Uint8Array {
  return encodeCanonicalJson(document, documentSchema, "ERR_RELEASE_MALFORMED", "delegation");
}

/** One approval: the policy, the policyRef it is approved under, and its signature once there is one. */
export interface DelegatedPolicy {
  /** Where its signature stands in the document. */
  readonly field: string;
  readonly steps: readonly PolicyStep[];
  readonly policyRef: Uint8Array;
}

/** Everything that a root signs for one release key, in the order of the document. */
export function delegatedPolicies(
  rootKeyPem: string,
  releaseKeyPem: string,
  { lastEpoch, credentials }: { readonly lastEpoch: number; readonly credentials: readonly string[] },
): readonly DelegatedPolicy[] {
  const unseal = delegationSteps(rootKeyPem, releaseKeyPem, lastEpoch);
  const raise = raiseDelegationSteps(rootKeyPem, releaseKeyPem, lastEpoch);
  return [
    ...credentials.map((name) => ({ field: `credentials.${name}`, steps: unseal, policyRef: credentialRef(name) })),
    { field: "first", steps: firstIncrementSteps(), policyRef: EPOCH_ROOT_REF },
    { field: "raise", steps: raise, policyRef: EPOCH_ROOT_REF },
  ];
}

/**
 * Proves that the root approved this release key for these credentials up to this epoch.
 * Does not establish that the key may be used for one that is not listed, nor that the root has not ended the epoch since.
 *
 * @throws PolicyError ERR_KEY_MALFORMED, ERR_RELEASE_SIGNATURE
 */
export async function verifyDelegation(
  rootKeyPem: string,
  releaseKeyPem: string,
  delegation: Delegation,
): Promise<void> {
  parseVerificationKey(releaseKeyPem);
  const credentials = delegation.credentials.map(({ name }) => name);
  const signatures = [...delegation.credentials.map((entry) => entry.signature), delegation.first, delegation.raise];
  const policies = delegatedPolicies(rootKeyPem, releaseKeyPem, { lastEpoch: delegation.lastEpoch, credentials });
  const root = await importVerificationKey(rootKeyPem);
  await passAll(
    policies.map((policy, index) =>
      verifyApproval(`delegation.${policy.field}`, root, policy, signatures[index] ?? ""),
    ),
  );
}

/** Checks that go on at the same time. All have to pass; of several that fail the first in this order is thrown. */
export async function passAll(checks: readonly Promise<unknown>[]): Promise<void> {
  const failed = (await Promise.allSettled(checks)).find(({ status }) => status === "rejected");
  if (failed?.status === "rejected") throw failed.reason;
}

/** @throws PolicyError ERR_RELEASE_SIGNATURE when `signature` is not one of `key` over this policy and policyRef */
export async function verifyApproval(
  field: string,
  key: ImportedKey,
  { steps, policyRef }: Pick<DelegatedPolicy, "steps" | "policyRef">,
  signature: string,
): Promise<void> {
  const bytes = fromBase64(signature, `release ${field}`);
  if (await key.verify(encodePolicyApproval(measurePolicy(steps), policyRef), bytes)) return;
  throw new PolicyError("ERR_RELEASE_SIGNATURE", `release ${field}`, {
    expected: "a signature over the policy that follows from this document",
    got: "another signature",
  });
}
