import { randomBytes } from "node:crypto";
import { sha256Hex, toHex } from "../../policy/index.ts";
import type { AuditLog } from "../audit/log.ts";
import { RefusalLog } from "../broker/index.ts";
import { type Approvals, createApprovals } from "./approvals.ts";
import type { ApprovalPolicy } from "./approvers.ts";
import { approvalEntry } from "./record.ts";

export interface OpenApprovals {
  /** The one in force. */
  readonly policy: () => ApprovalPolicy;
  /** The measured document. */
  readonly policyBytes: Uint8Array;
  /** TPM Name of the attestation key; throws where there is none, and then nothing can be approved. */
  readonly akName: () => Uint8Array;
  readonly audit: AuditLog;
  /** Milliseconds of a clock that nobody can set and that counts suspended time. */
  readonly now: () => number;
}

/** Approvals for this start of the agent: a nonce of its own, the machine's clocks, its audit log. */
export function openApprovals({ policy, policyBytes, akName, audit, now }: OpenApprovals): Approvals {
  const refusals = new RefusalLog(audit, "durable", now);
  return createApprovals({
    ...{ policy, policyDigest: `sha256:${sha256Hex(policyBytes)}`, machine: () => toHex(akName()) },
    ...{ bootNonce: random(32), random, now, wallClock: Date.now },
    record: async (event) => {
      const entry = approvalEntry(event);
      if (event.accepted) await audit.append(entry, "durable");
      else await refusals.record(entry);
    },
  });
}

function random(size: number): Uint8Array {
  return new Uint8Array(randomBytes(size));
}
