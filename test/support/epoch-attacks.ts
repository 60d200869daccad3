import type { TpmObject, Tpm as Tss } from "node-tpm2-tss";
import {
  bootPcrValues,
  EPOCH_INDEX,
  EPOCH_REF,
  EPOCH_ROOT_REF,
  encodeNvOperand,
  firstIncrementSteps,
  fromBase64,
  measureKeyName,
  measurePcrDigest,
  measurePolicy,
  NV_OPERATION,
  type PolicyStep,
  type Release,
  raiseDelegationSteps,
  raiseSteps,
} from "../../policy/index.ts";
import { verifyApprovalTicket } from "../../seal/policy-session.ts";
import type { BenchKeys } from "./sealing-bench.ts";

// Root of a guest with the files of a release: it sends the commands it likes, in the order it likes, without our checks.

/** One NV_Increment with the approvals of `release`. `anyPcrs`: PolicyPCR takes the PCRs as they are. */
export async function incrementAsAttacker(
  tss: Tss,
  keys: BenchKeys,
  release: Release,
  { anyPcrs = false }: { readonly anyPcrs?: boolean } = {},
): Promise<void> {
  const root = keys.root.spkiPem;
  const { releaseKey, delegation, epoch, raise } = release;
  const own = raiseSteps(root, bootPcrValues(release), epoch);
  const delegated = raiseDelegationSteps(root, releaseKey, delegation.lastEpoch);
  const tickets = [
    await verifyApprovalTicket(tss, releaseKey, own, EPOCH_REF, fromBase64(raise ?? "")),
    await verifyApprovalTicket(tss, root, delegated, EPOCH_ROOT_REF, fromBase64(delegation.raise)),
  ];
  await increment(tss, [...own, ...delegated, rootStep(root)], { tickets, anyPcrs });
}

/** The first increment once more. */
export async function incrementAgain(tss: Tss, keys: BenchKeys, release: Release): Promise<void> {
  const root = keys.root.spkiPem;
  const steps = firstIncrementSteps();
  const signature = fromBase64(release.delegation.first);
  const tickets = [await verifyApprovalTicket(tss, root, steps, EPOCH_ROOT_REF, signature)];
  await increment(tss, [...steps, rootStep(root)], { tickets, anyPcrs: false });
}

const rootStep = (rootKeyPem: string): PolicyStep => ({
  ...{ kind: "authorize", keyName: measureKeyName(rootKeyPem), policyRef: EPOCH_ROOT_REF },
});

interface Means {
  readonly tickets: readonly Uint8Array[];
  readonly anyPcrs: boolean;
}

async function increment(tss: Tss, steps: readonly PolicyStep[], means: Means): Promise<void> {
  await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
  await using session = await tss.startAuthSession({ kind: "policy" });
  await runSteps(tss, session, steps, { index, ...means });
  await tss.nvIncrement(index, { sessions: [session] });
}

/** The steps with whatever index there is, whatever its Name. */
export async function runSteps(
  tss: Tss,
  session: Parameters<Tss["policyGetDigest"]>[0],
  steps: readonly PolicyStep[],
  { index, tickets, anyPcrs }: Means & { readonly index: TpmObject },
): Promise<void> {
  const left = [...tickets];
  for (const [position, step] of steps.entries()) {
    if (step.kind === "pcr") {
      const digest = anyPcrs ? new Uint8Array() : measurePcrDigest(step.pcrs);
      await tss.policyPcr(session, [{ bank: "sha256", pcrs: [...step.pcrs.keys()] }], digest);
    } else if (step.kind === "nv") {
      const options = { operation: NV_OPERATION[step.operation] };
      await tss.policyNv(session, index, encodeNvOperand(step.operand), options);
    } else if (step.kind === "nvWritten") await tss.policyNvWritten(session, step.written);
    else if (step.kind === "commandCode") await tss.policyCommandCode(session, step.code);
    else if (step.kind === "authorize") {
      const approved = measurePolicy(steps.slice(0, position));
      await tss.policyAuthorize(session, approved, step.policyRef, step.keyName, left.shift() ?? new Uint8Array());
    } else throw new TypeError(step.kind);
  }
}
