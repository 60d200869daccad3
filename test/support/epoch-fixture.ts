import {
  bootPcrValues,
  EPOCH_REF,
  EPOCH_ROOT_REF,
  epochStart,
  firstIncrementSteps,
  measureEpochPolicy,
  type Release,
  raiseDelegationSteps,
  raiseSteps,
} from "../../policy/index.ts";
import { EPOCH_HANDLE, PolicySession } from "./policy-tools.ts";
import { type SealKeys, signDelegationOf } from "./seal-fixture.ts";
import type { SoftwareTpm } from "./swtpm.ts";
import { tpmTool, withFiles } from "./tpm-tools.ts";

// The epoch counter of a software TPM, by tpm2-tools: an independent peer of whatever provisions a machine.

/** A counter that its owner increments at will. Deleting it makes its value the least that any later counter starts above. */
const FOREIGN_HANDLE = "0x01800030";
const BOOT = [4, 9, 11, 12];

export interface EpochOptions {
  /** Value after the first increment. Default: the TPM's own, 1 in a new one. Only ever up. */
  readonly value?: number;
  /** False: no first increment. */
  readonly written?: boolean;
  /** In the words of tpm2_nvdefine. Any but the default give another Name. */
  readonly attributes?: string;
}

/** Defines the counter under the keys' root, and makes the first increment that the root approves for everybody. */
export async function defineEpoch(
  tpm: SoftwareTpm,
  keys: SealKeys,
  { value, written = true, attributes = "nt=counter|policywrite|authread|no_da" }: EpochOptions = {},
): Promise<void> {
  if (value !== undefined) await countTo(tpm, value - 1);
  const keyPem = keys.root.spkiPem;
  await withFiles({ policy: measureEpochPolicy(keyPem) }, (at) =>
    tpmTool(tpm, "tpm2_nvdefine", EPOCH_HANDLE, "-C", "o", "-a", attributes, "-L", at("policy")),
  );
  if (!written) return;
  const { first } = await signDelegationOf(keys);
  await PolicySession.with(tpm, async (session) => {
    await session.epochUnwritten();
    await session.command("TPM2_CC_NV_Increment");
    await session.authorize({ keyPem, steps: firstIncrementSteps(), policyRef: EPOCH_ROOT_REF, signature: first });
    await increment(tpm, session);
  });
}

export function undefineEpoch(tpm: SoftwareTpm): Promise<string> {
  return tpmTool(tpm, "tpm2_nvundefine", EPOCH_HANDLE, "-C", "o");
}

/** The counter made again, with a first increment to `value`. */
export async function moveEpoch(tpm: SoftwareTpm, keys: SealKeys, value: number): Promise<void> {
  await undefineEpoch(tpm);
  await defineEpoch(tpm, keys, { value });
}

export function readEpoch(tpm: SoftwareTpm): Promise<number> {
  return readCounter(tpm, EPOCH_HANDLE, EPOCH_HANDLE);
}

/** Increments once with a release's `raise`. Rejects when the TPM refuses, with the tool's message. */
export async function raiseEpoch(tpm: SoftwareTpm, keys: SealKeys, release: Release): Promise<void> {
  const { releaseKey, epoch } = release;
  const { lastEpoch, raise } = release.delegation;
  const root = keys.root.spkiPem;
  await PolicySession.with(tpm, async (session) => {
    await session.pcr(BOOT);
    await session.epoch("ult", epochStart(epoch));
    await session.command("TPM2_CC_NV_Increment");
    await session.authorize({
      keyPem: releaseKey,
      steps: raiseSteps(root, bootPcrValues(release), epoch),
      policyRef: EPOCH_REF,
      signature: release.raise ?? "",
    });
    await session.epoch("ult", epochStart(lastEpoch));
    await session.authorize({
      keyPem: root,
      steps: raiseDelegationSteps(root, releaseKey, lastEpoch),
      policyRef: EPOCH_ROOT_REF,
      signature: raise,
    });
    await increment(tpm, session);
  });
}

async function countTo(tpm: SoftwareTpm, value: number): Promise<void> {
  if (value < 1) return;
  await tpmTool(tpm, "tpm2_nvdefine", FOREIGN_HANDLE, "-C", "o", "-a", "nt=counter|ownerwrite|ownerread");
  do await tpmTool(tpm, "tpm2_nvincrement", FOREIGN_HANDLE, "-C", "o");
  while ((await readCounter(tpm, FOREIGN_HANDLE, "o")) < value);
  await tpmTool(tpm, "tpm2_nvundefine", FOREIGN_HANDLE, "-C", "o");
}

async function readCounter(tpm: SoftwareTpm, handle: string, authorization: string): Promise<number> {
  const bytes = Buffer.from(await tpmTool(tpm, "tpm2_nvread", handle, "-C", authorization), "latin1");
  return Number(bytes.readBigUInt64BE());
}

function increment(tpm: SoftwareTpm, { authorization }: PolicySession): Promise<string> {
  return tpmTool(tpm, "tpm2_nvincrement", EPOCH_HANDLE, "-C", EPOCH_HANDLE, "-P", authorization);
}
