import { TpmError, type TpmObject, type Tpm as Tss } from "node-tpm2-tss";
import {
  bootPcrValues,
  type Delegation,
  EPOCH_ATTRIBUTES,
  EPOCH_INDEX,
  EPOCH_REF,
  EPOCH_ROOT_REF,
  epochStart,
  equalBytes,
  firstIncrementSteps,
  fromBase64,
  measureEpochName,
  measureEpochPolicy,
  measureKeyName,
  NV_WRITTEN,
  type PolicyStep,
  type Release,
  raiseDelegationSteps,
  raiseSteps,
  toHex,
} from "../policy/index.ts";
import { SealError } from "./errors.ts";
import { withNvIndex } from "./nv-index.ts";
import { executePolicy, verifyApprovalTicket } from "./policy-session.ts";

/** What a TPM has at the counter's index. `value` is null before the first increment, and when it is not our counter. */
export type EpochState =
  | { readonly kind: "missing" }
  | { readonly kind: "present"; readonly name: Uint8Array; readonly value: bigint | null };

const SIZE = 8;
/** TPM_RC_BAD_AUTH of the first session. */
const BAD_AUTH = 0x9a2;

export function readEpoch(tss: Tss): Promise<EpochState> {
  return withNvIndex(tss, EPOCH_INDEX, async (index): Promise<EpochState> => {
    if (index === null) return { kind: "missing" };
    const { attributes, dataSize, name } = await tss.nvReadPublic(index);
    // Another index is not read: it may want an authValue, and a wrong one counts for the dictionary-attack lockout.
    const readable = attributes === (EPOCH_ATTRIBUTES | NV_WRITTEN) && dataSize === SIZE;
    return { kind: "present", name, value: readable ? await readCounter(tss, index) : null };
  });
}

/** Null for a counter with an authValue: it is no part of the Name, so ours may have been replaced by such a one. */
async function readCounter(tss: Tss, index: TpmObject): Promise<bigint | null> {
  try {
    const bytes = await tss.nvRead(index, { size: SIZE });
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getBigUint64(0);
  } catch (error) {
    if (error instanceof TpmError && error.rc === BAD_AUTH) return null;
    throw error;
  }
}

/**
 * Defines the counter under a release root if the TPM has none at its index, and increments it for the first time. Can be called
 * again after a crash at any step. Needs the owner's authorisation, which is empty until the machine is enrolled.
 *
 * @param delegation of any release key of this root: its `first` approves the first increment, on every TPM
 * @throws SealError ERR_SEAL_POLICY when another index is in its place; TpmError
 */
export async function provisionEpoch(
  tss: Tss,
  rootKeyPem: string,
  delegation: Pick<Delegation, "first">,
): Promise<void> {
  const present = await readEpoch(tss);
  if (present.kind === "missing") {
    await using _index = await tss.nvDefineSpace({
      index: EPOCH_INDEX,
      attributes: EPOCH_ATTRIBUTES,
      dataSize: SIZE,
      authPolicy: measureEpochPolicy(rootKeyPem),
    });
  }
  if (present.kind === "present" && equalBytes(present.name, measureEpochName(rootKeyPem))) return;
  if (present.kind === "present") requireUnwritten(present.name, rootKeyPem);
  const steps = firstIncrementSteps();
  const signature = fromBase64(delegation.first, "delegation.first");
  const ticket = await verifyApprovalTicket(tss, rootKeyPem, steps, EPOCH_ROOT_REF, signature);
  await increment(tss, [...steps, rootStep(rootKeyPem)], [ticket]);
}

/**
 * Takes away what lies at the counter's index: somebody's own index, or the counter of a root that is lost. The TPM remembers its highest
 * count, so the next counter starts above it. With the owner's authorisation set, that is needed.
 *
 * @throws TpmError
 */
export async function undefineEpoch(tss: Tss): Promise<void> {
  if ((await readEpoch(tss)).kind === "missing") return;
  await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
  await tss.nvUndefineSpace(index);
}

function requireUnwritten(name: Uint8Array, rootKeyPem: string): void {
  const expected = measureEpochName(rootKeyPem, { written: false });
  if (equalBytes(name, expected)) return;
  throw new SealError("ERR_SEAL_POLICY", "epoch counter", {
    expected: toHex(expected),
    got: toHex(name),
    hint: "another index is in the counter's place: `ironclaw tpm provision --replace`, with the owner's escrow if there is one",
  });
}

export interface RaisedEpoch {
  readonly from: bigint;
  readonly to: bigint;
}

/**
 * Raises the counter to the start of the release's epoch: from then on no release of a lower epoch unseals on this TPM. For a
 * machine that serves under this release, and boots its image. Does nothing when the counter is there already, and stops after 4096
 * increments: the next call goes on.
 *
 * @throws TpmError when the TPM refuses; SealError ERR_SEAL_POLICY for a release that raises nothing or a counter that is missing
 */
export async function raiseEpoch(tss: Tss, rootKeyPem: string, release: Release): Promise<RaisedEpoch> {
  const before = await readEpoch(tss);
  if (before.kind === "missing" || before.value === null || release.raise === null)
    throw new SealError("ERR_SEAL_POLICY", "epoch", {
      expected: "a counter, and a release that raises it",
      got: before.kind,
    });
  const last = before.value + MAX_INCREMENTS;
  const target = epochStart(release.epoch) < last ? epochStart(release.epoch) : last;
  const plan = await planRaise(tss, rootKeyPem, release, release.raise);
  let value = before.value;
  for (; value < target; value += 1n) await increment(tss, plan.steps, plan.tickets);
  return { from: before.value, to: value };
}

/** Increments of one call. A release that skips many epochs is caught up with over several boots, none of which it holds up for long. */
const MAX_INCREMENTS = 4096n;

/** Both tickets are good for every increment. */
async function planRaise(
  tss: Tss,
  rootKeyPem: string,
  release: Release,
  raise: string,
): Promise<{ readonly steps: readonly PolicyStep[]; readonly tickets: readonly Uint8Array[] }> {
  const { releaseKey, delegation, epoch } = release;
  const own = raiseSteps(rootKeyPem, bootPcrValues(release), epoch);
  const delegated = raiseDelegationSteps(rootKeyPem, releaseKey, delegation.lastEpoch);
  return {
    steps: [...own, ...delegated, rootStep(rootKeyPem)],
    tickets: [
      await verifyApprovalTicket(tss, releaseKey, own, EPOCH_REF, fromBase64(raise, "raise")),
      await verifyApprovalTicket(
        tss,
        rootKeyPem,
        delegated,
        EPOCH_ROOT_REF,
        fromBase64(delegation.raise, "delegation.raise"),
      ),
    ],
  };
}

function rootStep(rootKeyPem: string): PolicyStep {
  return { kind: "authorize", keyName: measureKeyName(rootKeyPem), policyRef: EPOCH_ROOT_REF };
}

const PCR_CHANGED = 0x128;
const RACES_MAX = 8;

/** One increment. A PCR that moves meanwhile costs another session, at most eight times. */
async function increment(tss: Tss, steps: readonly PolicyStep[], tickets: readonly Uint8Array[]): Promise<void> {
  for (let races = 1; ; races++) {
    try {
      return await incrementOnce(tss, steps, tickets);
    } catch (error) {
      if (!(error instanceof TpmError) || error.rc !== PCR_CHANGED || races === RACES_MAX) throw error;
    }
  }
}

async function incrementOnce(tss: Tss, steps: readonly PolicyStep[], tickets: readonly Uint8Array[]): Promise<void> {
  await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
  await using session = await tss.startAuthSession({ kind: "policy" });
  await executePolicy(tss, session, steps, { index, tickets });
  await tss.nvIncrement(index, { sessions: [session] });
}
