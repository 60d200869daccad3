import {
  concatBytes,
  type DelegatedPolicy,
  EPOCH_INDEX,
  EPOCH_REF,
  EPOCH_ROOT_REF,
  encodeNvOperand,
  encodePolicyApproval,
  encodeTpmtSignature,
  encodeVerificationKeyPublic,
  epochStart,
  firstIncrementSteps,
  fromBase64,
  measureEpochPolicy,
  measurePolicy,
  type Release,
  raiseDelegationSteps,
  raiseSteps,
  sealPcrValues,
  sha256,
  toHex,
} from "../../policy/index.ts";
import { BOOT_PCRS } from "../../policy/sealing-policy.ts";
import { signDelegation } from "../../seal/delegation.ts";
import type { SealKeys } from "./seal-fixture.ts";
import type { SoftwareTpm } from "./swtpm.ts";
import { tpmTool, withFiles } from "./tpm-tools.ts";

// The epoch counter of a software TPM, by tpm2-tools: an independent peer of whatever provisions a machine.

const INDEX = `0x${EPOCH_INDEX.toString(16).padStart(8, "0")}`;
/** A counter that its owner increments at will. Deleting it makes its value the least that any later counter starts above. */
const FOREIGN_INDEX = "0x01800030";

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
  const policy = measureEpochPolicy(keys.root.spkiPem);
  await withFiles({ policy }, (at) =>
    tpmTool(tpm, "tpm2_nvdefine", INDEX, "-C", "o", "-a", attributes, "-L", at("policy")),
  );
  if (!written) return;
  const { first } = await signDelegation(keys.root, {
    releaseKeyPem: keys.releaseKey.spkiPem,
    credentials: ["hsm-pin"],
    lastEpoch: 0,
  });
  await increment(tpm, async (session) => {
    await tpmTool(tpm, "tpm2_policynvwritten", "-S", session, "c");
    await tpmTool(tpm, "tpm2_policycommandcode", "-S", session, "TPM2_CC_NV_Increment");
    const approval = { steps: firstIncrementSteps(), policyRef: EPOCH_ROOT_REF };
    await authorize(tpm, session, keys.root.spkiPem, approval, first);
  });
}

export function undefineEpoch(tpm: SoftwareTpm): Promise<string> {
  return tpmTool(tpm, "tpm2_nvundefine", INDEX, "-C", "o");
}

/** The counter made again, with a first increment to `value`. */
export async function moveEpoch(tpm: SoftwareTpm, keys: SealKeys, value: number): Promise<void> {
  await undefineEpoch(tpm);
  await defineEpoch(tpm, keys, { value });
}

export async function readEpoch(tpm: SoftwareTpm): Promise<bigint> {
  const hex = await tpmTool(tpm, "tpm2_nvread", INDEX, "-C", INDEX).then((text) => Buffer.from(text, "latin1"));
  return hex.readBigUInt64BE();
}

/** Increments once with a release's `raise`. Rejects when the TPM refuses, with the tool's message. */
export async function raiseOnce(tpm: SoftwareTpm, keys: SealKeys, release: Release): Promise<void> {
  const { releaseKey, epoch, delegation } = release;
  const root = keys.root.spkiPem;
  const bootPcrs = new Map([...sealPcrValues(release)].filter(([index]) => BOOT_PCRS.includes(index)));
  await increment(tpm, async (session) => {
    await tpmTool(tpm, "tpm2_policypcr", "-S", session, "-l", `sha256:${BOOT_PCRS.join()}`);
    await policyNvBelow(tpm, session, epochStart(epoch));
    await tpmTool(tpm, "tpm2_policycommandcode", "-S", session, "TPM2_CC_NV_Increment");
    const raise = { steps: raiseSteps(root, bootPcrs, epoch), policyRef: EPOCH_REF };
    await authorize(tpm, session, releaseKey, raise, release.raise ?? "");
    await policyNvBelow(tpm, session, epochStart(delegation.lastEpoch));
    const delegated = {
      steps: raiseDelegationSteps(root, releaseKey, delegation.lastEpoch),
      policyRef: EPOCH_ROOT_REF,
    };
    await authorize(tpm, session, root, delegated, delegation.raise);
  });
}

async function countTo(tpm: SoftwareTpm, value: number): Promise<void> {
  if (value < 1) return;
  await tpmTool(tpm, "tpm2_nvdefine", FOREIGN_INDEX, "-C", "o", "-a", "nt=counter|ownerwrite|ownerread");
  const read = async () =>
    Buffer.from(await tpmTool(tpm, "tpm2_nvread", FOREIGN_INDEX, "-C", "o"), "latin1").readBigUInt64BE();
  do await tpmTool(tpm, "tpm2_nvincrement", FOREIGN_INDEX, "-C", "o");
  while ((await read()) < value);
  await tpmTool(tpm, "tpm2_nvundefine", FOREIGN_INDEX, "-C", "o");
}

async function increment(tpm: SoftwareTpm, satisfy: (session: string) => Promise<void>): Promise<void> {
  await withFiles({}, async (at) => {
    const session = at("session");
    await tpmTool(tpm, "tpm2_startauthsession", "--policy-session", "-S", session);
    try {
      await satisfy(session);
      await tpmTool(tpm, "tpm2_nvincrement", INDEX, "-C", INDEX, "-P", `session:${session}`);
    } finally {
      await tpmTool(tpm, "tpm2_flushcontext", session);
    }
  });
}

function policyNvBelow(tpm: SoftwareTpm, session: string, limit: bigint): Promise<string> {
  return withFiles({ operand: encodeNvOperand(limit) }, (at) =>
    tpmTool(tpm, "tpm2_policynv", "-S", session, "-C", INDEX, "-i", at("operand"), INDEX, "ult"),
  );
}

/** TPM2_PolicyAuthorize with everything it needs: the key loaded, the signature verified, its ticket. */
async function authorize(
  tpm: SoftwareTpm,
  session: string,
  keyPem: string,
  { steps, policyRef }: Pick<DelegatedPolicy, "steps" | "policyRef">,
  signature: string,
): Promise<void> {
  const area = encodeVerificationKeyPublic(keyPem);
  const approved = measurePolicy(steps);
  const files = {
    public: concatBytes(Uint8Array.of(area.length >> 8, area.length & 0xff), area),
    signature: encodeTpmtSignature(keyPem, fromBase64(signature)),
    digest: sha256(encodePolicyApproval(approved, policyRef)),
    approved,
  };
  await withFiles(files, async (at) => {
    await tpmTool(tpm, "tpm2_loadexternal", "-C", "o", "-u", at("public"), "-c", at("key"), "-n", at("name"));
    const verify = ["-c", at("key"), "-d", at("digest"), "-s", at("signature"), "-t", at("ticket")];
    await tpmTool(tpm, "tpm2_verifysignature", ...verify);
    await tpmTool(tpm, "tpm2_flushcontext", "-t");
    const what = ["-i", at("approved"), "-q", toHex(policyRef), "-n", at("name"), "-t", at("ticket")];
    await tpmTool(tpm, "tpm2_policyauthorize", "-S", session, ...what);
  });
}
