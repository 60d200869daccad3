import {
  equalBytes,
  isSameSshKey,
  PolicyError,
  parseSshKeyLine,
  parseSshSignature,
  type SshKeyLine,
  type SshSignature,
  type SshSignatureFault,
  verifySshSignature,
} from "../../policy/index.ts";
import { APPROVAL_NAMESPACE } from "./text.ts";

/** What approvals need of a scope of the policy. */
export interface ApprovedScope {
  readonly name: string;
  readonly caller: string;
  readonly keys: readonly string[];
  readonly mechanisms: readonly { readonly type: string }[];
  readonly approvals?:
    | {
        readonly required: number;
        readonly of: readonly string[];
        readonly for: "operation" | "window";
        /** ISO 8601. */
        readonly window: string;
      }
    | undefined;
}

/** What approvals need of a policy. */
export interface ApprovalPolicy {
  readonly serial: number;
  readonly approvers: Readonly<Record<string, { readonly key: string; readonly notFor: readonly string[] }>>;
  readonly scopes: readonly ApprovedScope[];
}

/** Why a signature does not count (APPROVALS.md). */
export type ApprovalRefusalCode =
  | "unknown-request"
  | "malformed"
  | "wrong-namespace"
  | "not-touched"
  | "not-verified"
  | "bad-signature"
  | "unknown-key"
  | "not-listed"
  | "not-for-caller"
  | "approved-already";

export interface ApprovalRefusal {
  readonly kind: "refused";
  readonly code: ApprovalRefusalCode;
  /** In words, for the log and for whoever handed the signature in. */
  readonly reason: string;
  /** The approver whose key it was, when it is the policy's. */
  readonly approver: string | null;
}

/** Somebody whose signature counts. */
export interface Approver {
  readonly kind: "approver";
  readonly name: string;
  /** What makes him one: 32 bytes, whatever kind of key they stand in. */
  readonly point: Uint8Array;
}

const FAULTS: Readonly<Record<Exclude<SshSignatureFault, null>, readonly [ApprovalRefusalCode, string]>> = {
  namespace: ["wrong-namespace", `the signature is not in the namespace ${APPROVAL_NAMESPACE}`],
  "user presence": ["not-touched", "the security key was not touched"],
  "user verification": ["not-verified", "the security key did not verify its user"],
  signature: ["bad-signature", "the signature is not over this request's text"],
};

/**
 * Whose signature this is, when it counts for a request of this scope with this text. Does not look at who has approved it already. A key
 * under two names is one approver: what either of them may not do, it may not do.
 */
export async function verifyApproval(
  policy: ApprovalPolicy,
  { name: scope, caller, approvals }: ApprovedScope,
  text: Uint8Array,
  armored: string,
): Promise<Approver | ApprovalRefusal> {
  const signature = readSignature(armored);
  if ("kind" in signature) return signature;
  const holders = holdersOf(policy, signature);
  const [first] = holders.filter(({ key }) => isSameSshKey(key, signature.key));
  if (first === undefined) return refusal("unknown-key", "no approver of the policy has this key");
  const verifyRequired = holders.some((holder) => holder.verifyRequired);
  const fault = await verifySshSignature(signature, { namespace: APPROVAL_NAMESPACE, message: text, verifyRequired });
  // Not said to be his: whoever has his public key can name it.
  if (fault !== null) return refusal(...FAULTS[fault]);
  const barred = holders.find(({ notFor }) => notFor.includes(caller));
  if (barred !== undefined)
    return refusal("not-for-caller", `${barred.name} may not approve for ${caller}`, barred.name);
  const listed = holders.find(({ name, key }) => approvals?.of.includes(name) && isSameSshKey(key, signature.key));
  if (listed === undefined) return refusal("not-listed", `${first.name} is no approver of scope ${scope}`, first.name);
  return { kind: "approver", name: listed.name, point: signature.key.point };
}

export function refusal(code: ApprovalRefusalCode, reason: string, approver: string | null = null): ApprovalRefusal {
  return { kind: "refused", code, reason, approver };
}

function readSignature(armored: string): SshSignature | ApprovalRefusal {
  try {
    return parseSshSignature(armored);
  } catch (error) {
    if (error instanceof PolicyError) return refusal("malformed", error.message);
    throw error;
  }
}

interface Holder extends SshKeyLine {
  readonly name: string;
  readonly notFor: readonly string[];
}

/** Everybody who has these 32 bytes, as whatever kind of key. A line that cannot be read is nobody's; a parsed policy has none. */
function holdersOf({ approvers }: ApprovalPolicy, { key: { point } }: SshSignature): readonly Holder[] {
  return Object.entries(approvers).flatMap(([name, { key, notFor }]) => {
    try {
      const line = parseSshKeyLine(key);
      return equalBytes(line.key.point, point) ? [{ ...line, name, notFor }] : [];
    } catch {
      return [];
    }
  });
}
