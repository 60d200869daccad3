import { OPERATION, type Session, type TpmObject, type Tpm as Tss } from "node-tpm2-tss";
import {
  encodeNvOperand,
  encodePolicyApproval,
  encodeTpmtSignature,
  encodeVerificationKeyPublic,
  equalBytes,
  fromHex,
  measurePcrDigest,
  measurePolicy,
  type PolicyStep,
  sha256,
  toHex,
} from "../policy/index.ts";
import { SealError } from "./errors.ts";

/** What a session needs besides the steps themselves: the TPM's own handles and proofs for them. */
export interface PolicySources {
  /** The opened index of an `nv` step, or of an `nvWritten` step's command. */
  readonly index?: TpmObject;
  /** For each `authorize` step, in order: the ticket of TPM2_VerifySignature over what the session has reached. */
  readonly tickets?: readonly Uint8Array[];
  /** Whose authorisation a `secret` step uses. */
  readonly authority?: Parameters<Tss["policySecret"]>[0];
}

/**
 * Runs `steps` in a policy or trial session: the executing twin of `measurePolicy`. A step that the TPM refuses ends it.
 * In a trial session nothing is compared and no ticket is needed: it shows the digest only.
 *
 * @throws TpmError with the TPM's answer; SealError ERR_SEAL_POLICY when a step's source is missing or is another index
 */
export async function executePolicy(
  tss: Tss,
  session: Session,
  steps: readonly PolicyStep[],
  sources: PolicySources = {},
): Promise<void> {
  const tickets = [...(sources.tickets ?? [])];
  const done: PolicyStep[] = [];
  for (const step of steps) {
    await executeStep(tss, session, step, { ...sources, reached: measurePolicy(done), ticket: tickets[0] });
    if (step.kind === "authorize") tickets.shift();
    done.push(step);
  }
}

/** TPMT_TK_VERIFIED of the null hierarchy: what a trial session, which compares nothing, takes. */
const NO_TICKET = fromHex("8022400000070000");

interface StepSources extends PolicySources {
  /** The digest before this step. */
  readonly reached: Uint8Array;
  readonly ticket: Uint8Array | undefined;
}

async function executeStep(tss: Tss, session: Session, step: PolicyStep, sources: StepSources): Promise<void> {
  switch (step.kind) {
    case "pcr":
      // With the expected digest a changed measurement is refused here, not somewhere later.
      return tss.policyPcr(session, [{ bank: "sha256", pcrs: [...step.pcrs.keys()] }], measurePcrDigest(step.pcrs));
    case "nv": {
      const index = required(sources.index, "NV index");
      if (!equalBytes(index.name, step.name)) throw missing("NV index name", toHex(step.name), toHex(index.name));
      return tss.policyNv(session, index, encodeNvOperand(step.operand), { operation: OPERATION[step.operation] });
    }
    case "nvWritten":
      return tss.policyNvWritten(session, step.written);
    case "commandCode":
      return tss.policyCommandCode(session, step.code);
    case "authorize":
      return tss.policyAuthorize(
        session,
        sources.reached,
        step.policyRef,
        step.keyName,
        session.kind === "trial" ? NO_TICKET : required(sources.ticket, "ticket"),
      );
    case "secret":
      await tss.policySecret(required(sources.authority, "authority"), session, { policyRef: step.policyRef });
      return;
    case "authValue":
      return tss.policyAuthValue(session);
    case "or":
      return tss.policyOr(session, step.branches);
    default:
      return step satisfies never;
  }
}

/**
 * Has the TPM verify a key's approval of a policy. The ticket is good for TPM2_PolicyAuthorize until the owner hierarchy's proof
 * changes.
 * @param signature r||s or PKCS#1, as the documents carry it
 */
export async function verifyApprovalTicket(
  tss: Tss,
  keyPem: string,
  steps: readonly PolicyStep[],
  policyRef: Uint8Array,
  signature: Uint8Array,
): Promise<Uint8Array> {
  // Under the owner hierarchy: PolicyAuthorize refuses a ticket of the null hierarchy.
  await using key = await tss.loadExternal(encodeVerificationKeyPublic(keyPem), "owner");
  const digest = sha256(encodePolicyApproval(measurePolicy(steps), policyRef));
  return await tss.verifySignature(key, digest, encodeTpmtSignature(keyPem, signature));
}

function required<T>(source: T | undefined, what: string): T {
  if (source !== undefined) return source;
  throw missing(what, "one", "none");
}

function missing(what: string, expected: string, got: string): SealError {
  return new SealError("ERR_SEAL_POLICY", `policy ${what}`, { expected, got });
}
