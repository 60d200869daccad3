import { type LaunchEvent, predictAgentPcr } from "../attest/index.ts";
import {
  AGENT_PCR,
  bootPcrValues,
  type Delegation,
  EPOCH_REF,
  EXTENDED_PCRS,
  encodeRelease,
  epochLimit,
  equalBytes,
  fromHex,
  measureEpochName,
  type PcrValues,
  type PolicyStep,
  RELEASE_REF,
  RELEASE_TYPE,
  type Release,
  raiseSteps,
  releaseSteps,
  SEAL_PCRS,
  type SigningKey,
  sealPcrValues,
  sha256,
  signEnvelope,
  TPM_CC,
  toHex,
  verifyDelegation,
} from "../policy/index.ts";
import { signPolicy } from "./delegation.ts";
import { SealError } from "./errors.ts";

/** A release before it is signed: everything but what the signatures add. */
export interface ReleaseDraft
  extends Omit<Release, "version" | "agentPcr" | "unseal" | "raise" | "releaseKey" | "delegation"> {
  /** Whether the release ends all lower epochs once it serves. */
  readonly raise: boolean;
}

export interface ReleaseKeys {
  readonly releaseKey: SigningKey;
  /** The root's approval of that release key, from `signDelegation`: the root key itself can stay offline. */
  readonly delegation: Delegation;
  /** Public half of the root, SubjectPublicKeyInfo PEM. */
  readonly rootKeyPem: string;
}

/**
 * Signs a release: its document, and the TPM policies that the document's PCR values and epoch make.
 * Signs nothing but the one shape of `releaseSteps` and of `raiseSteps`.
 *
 * @throws SealError ERR_RELEASE_REFUSED; PolicyError ERR_RELEASE_MALFORMED, ERR_RELEASE_SIGNATURE for a delegation of another root or key
 */
export async function signRelease(draft: ReleaseDraft, keys: ReleaseKeys): Promise<Uint8Array> {
  const { releaseKey, delegation, rootKeyPem } = keys;
  const { name, image, epoch, notBefore, notAfter, pcrs, events } = draft;
  await verifyDelegation(rootKeyPem, releaseKey.spkiPem, delegation);
  if (epoch > delegation.lastEpoch)
    throw refused("epoch", `at most ${delegation.lastEpoch}, which the root approved`, `${epoch}`);
  if (draft.raise && epoch === 0) throw refused("epoch", "1 or more, to end a lower one", "0");
  const unseal = releaseSteps(rootKeyPem, sealPcrValues(draft), epoch);
  checkReleasePolicy(unseal, { events: events.map(toLaunchEvent), epochName: measureEpochName(rootKeyPem), epoch });
  checkBootPcrs(sealPcrValues(draft));
  checkSecondBank(draft);
  const raise = raiseSteps(rootKeyPem, bootPcrValues(draft), epoch);
  const release: Release = {
    version: 2,
    ...{ name, image, epoch, notBefore, notAfter, agentPcr: AGENT_PCR, pcrs, events },
    unseal: await signPolicy(releaseKey, unseal, RELEASE_REF),
    raise: draft.raise ? await signPolicy(releaseKey, raise, EPOCH_REF) : null,
    releaseKey: releaseKey.spkiPem,
    delegation,
  };
  return signEnvelope(RELEASE_TYPE, encodeRelease(release), releaseKey);
}

/** What a release's policy has to agree with. */
export interface ReleasePolicyContext {
  /** What the agent measures before the unseal: the agent PCR must be their replay. */
  readonly events: readonly LaunchEvent[];
  readonly epochName: Uint8Array;
  readonly epoch: number;
}

/**
 * Refuses every policy but the one that a release key may approve: PolicyPCR over the seal PCRs, PolicyNV of the epoch,
 * PolicyCommandCode(Unseal). The gate of the signing tool, whoever made the steps.
 * @throws SealError ERR_RELEASE_REFUSED
 */
export function checkReleasePolicy(steps: readonly PolicyStep[], context: ReleasePolicyContext): void {
  const [first, second, third, ...others] = steps;
  if (first?.kind !== "pcr") throw refused("policy step 1", "PolicyPCR", first?.kind ?? "nothing");
  if (second?.kind !== "nv") throw refused("policy step 2", "PolicyNV", second?.kind ?? "nothing");
  if (third?.kind !== "commandCode") throw refused("policy step 3", "PolicyCommandCode", third?.kind ?? "nothing");
  if (third.code !== TPM_CC.unseal)
    throw refused("command code", `0x${TPM_CC.unseal.toString(16)}`, `0x${third.code.toString(16)}`);
  if (others.length > 0) throw refused("policy", "three steps", `${steps.length}`);
  checkEpoch(second, context);
  checkSealPcrs(first.pcrs);
  checkAgentPcr(first.pcrs.get(AGENT_PCR) ?? new Uint8Array(), context.events);
}

function checkEpoch(step: Extract<PolicyStep, { kind: "nv" }>, { epochName, epoch }: ReleasePolicyContext): void {
  if (!equalBytes(step.name, epochName)) throw refused("epoch counter", toHex(epochName), toHex(step.name));
  if (step.operation !== "unsignedLe") throw refused("epoch comparison", "unsignedLe", step.operation);
  if (step.operand !== epochLimit(epoch)) throw refused("epoch limit", `${epochLimit(epoch)}`, `${step.operand}`);
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

/** A bank that the firmware never extended would be satisfied by any boot. PCR 12 is zero in an image without overrides. */
function checkBootPcrs(pcrs: PcrValues): void {
  for (const index of EXTENDED_PCRS) {
    if (pcrs.get(index)?.every((byte) => byte === 0) === true)
      throw refused(`PCR ${index}`, "a measured boot", "zero: a boot that measures nothing would unseal");
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

function refused(what: string, expected: string, got: string): SealError {
  return new SealError("ERR_RELEASE_REFUSED", `release ${what}`, {
    expected,
    got,
  });
}
