import { type LaunchEvent, predictAgentPcr } from "../attest/index.ts";
import {
  AGENT_PCR,
  COMMAND_UNSEAL,
  encodePolicyApproval,
  encodeRelease,
  equalBytes,
  fromHex,
  measureDelegation,
  measurePolicy,
  type PcrValues,
  type PolicyApproval,
  type PolicyStep,
  RELEASE_POLICY_REF,
  RELEASE_TYPE,
  type Release,
  ROOT_POLICY_REF,
  releasePolicySteps,
  SEAL_PCRS,
  type SigningKey,
  sealPcrValues,
  sha256,
  signEnvelope,
  toBase64,
  toHex,
} from "../policy/index.ts";
import { SealError } from "./errors.ts";

/** A release before it is signed: everything but what the signatures add. */
export type ReleaseDraft = Omit<Release, "version" | "agentPcr" | "tpmPolicy" | "releaseKey" | "delegation">;

export interface ReleaseKeys {
  readonly releaseKey: SigningKey;
  /** The root's approval of that release key, from `signDelegation`: the root key itself can stay offline. */
  readonly delegation: PolicyApproval;
}

/** The release root approves a release key. Once per release key; releases under it then need no root key. */
export async function signDelegation(root: SigningKey, releaseKeyPem: string): Promise<PolicyApproval> {
  return signApproval(root, ROOT_POLICY_REF, measureDelegation(releaseKeyPem));
}

/**
 * Signs a release: its document, and the TPM policy that the document's PCR values make.
 * Signs nothing but PolicyPCR over the seal PCRs followed by PolicyCommandCode(Unseal): a signed policy without the first would outlive the cap,
 * one without the second could be used to duplicate the PIN in clear.
 *
 * @throws SealError ERR_RELEASE_REFUSED; PolicyError ERR_RELEASE_MALFORMED
 */
export async function signRelease(draft: ReleaseDraft, keys: ReleaseKeys): Promise<Uint8Array> {
  const { releaseKey, delegation } = keys;
  const { name, image, epoch, notBefore, notAfter, pcrs, events } = draft;
  const steps = releasePolicySteps(sealPcrValues(draft));
  const approved = approveReleasePolicy(steps, events.map(toLaunchEvent));
  checkSecondBank(draft);
  const release: Release = {
    version: 1,
    name,
    image,
    epoch,
    notBefore,
    notAfter,
    agentPcr: AGENT_PCR,
    pcrs,
    events,
    tpmPolicy: await signApproval(releaseKey, RELEASE_POLICY_REF, approved),
    releaseKey: releaseKey.spkiPem,
    delegation,
  };
  if (delegation.approved !== toHex(measureDelegation(releaseKey.spkiPem))) {
    throw refused("delegation", "an approval of this release key", "an approval of another key");
  }
  return signEnvelope(RELEASE_TYPE, encodeRelease(release), releaseKey);
}

/**
 * The digest of `steps`, if they are a policy that a release key may approve.
 * @param events what the agent measures before the unseal: the agent PCR must be their replay
 * @throws SealError ERR_RELEASE_REFUSED
 */
export function approveReleasePolicy(steps: readonly PolicyStep[], events: readonly LaunchEvent[]): Uint8Array {
  const [first, second, ...others] = steps;
  if (first?.kind !== "pcr") throw refused("policy step 1", "PolicyPCR", first?.kind ?? "nothing");
  if (second?.kind !== "commandCode") throw refused("policy step 2", "PolicyCommandCode", second?.kind ?? "nothing");
  if (second.code !== COMMAND_UNSEAL)
    throw refused("command code", `0x${COMMAND_UNSEAL.toString(16)}`, `0x${second.code.toString(16)}`);
  if (others.length > 0) throw refused("policy", "two steps", `${steps.length}`);
  checkSealPcrs(first.pcrs);
  checkAgentPcr(first.pcrs.get(AGENT_PCR) ?? new Uint8Array(), events);
  return measurePolicy(steps);
}

function checkSealPcrs(pcrs: PcrValues): void {
  const indices = [...pcrs.keys()].sort((a, b) => a - b);
  // The whole set or nothing: fewer would not bind the image or the agent, 16 and 23 can be reset by any program.
  if (indices.join() !== SEAL_PCRS.join())
    throw refused("PCR selection", SEAL_PCRS.join(" "), indices.join(" ") || "none");
  for (const [index, value] of pcrs) {
    if (value.length !== 32) throw refused(`PCR ${index}`, "32 bytes", `${value.length}`);
  }
}

function checkAgentPcr(value: Uint8Array, events: readonly LaunchEvent[]): void {
  if (value.every((byte) => byte === 0))
    throw refused("agent PCR", "a measured launch", "zero: a VM without the agent would unseal");
  for (const name of ["serving", "refused"]) {
    const capped = predictAgentPcr([...events, { kind: "cap", name, sha256: sha256(new Uint8Array()) }]);
    if (equalBytes(capped.sha256, value)) throw refused("agent PCR", "the value before the cap", "the capped value");
  }
  const expected = predictAgentPcr(events).sha256;
  if (!equalBytes(expected, value))
    throw refused("agent PCR", `${toHex(expected)}, the replay of the events`, toHex(value));
}

function checkSecondBank(draft: ReleaseDraft): void {
  const expected = toHex(predictAgentPcr(draft.events.map(toLaunchEvent)).sha384);
  const got = draft.pcrs.sha384[`${AGENT_PCR}`] ?? "nothing";
  if (got !== expected) throw refused("agent PCR in the SHA-384 bank", `${expected}, the replay of the events`, got);
}

function toLaunchEvent(event: Release["events"][number]): LaunchEvent {
  return { ...event, sha256: fromHex(event.sha256, `event ${event.name}`) };
}

async function signApproval(key: SigningKey, policyRef: Uint8Array, approved: Uint8Array): Promise<PolicyApproval> {
  const signature = await key.sign(encodePolicyApproval(approved, policyRef));
  return {
    policyRef: toHex(policyRef),
    approved: toHex(approved),
    signature: toBase64(signature),
  };
}

function refused(what: string, expected: string, got: string): SealError {
  return new SealError("ERR_RELEASE_REFUSED", `release ${what}`, {
    expected,
    got,
  });
}
